"""The Celery app."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from celery import Celery
from kombu.utils.json import register_type

from cis_tasks import aws
from cis_tasks.broker import fifo
from cis_tasks.manifest import Answer
from cis_tasks.pipelines import PIPELINES


class QueueUrls(Mapping[str, Mapping[str, str]]):
    """kombu's ``predefined_queues``; asks for a queue's URL when the broker is first used.

    Reading the configuration then needs no network, and a worker of one pipeline needs no right
    to the queue of another that is configured by URL.
    """

    def __getitem__(self, name: str) -> Mapping[str, str]:
        for pipeline in PIPELINES.values():
            if pipeline.queue == name:
                return {"url": aws.queue_url(pipeline)}
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (pipeline.queue for pipeline in PIPELINES.values())

    def __len__(self) -> int:
        return len(PIPELINES)

    def __json__(self) -> list[str]:
        """For ``celery inspect stats``, which tells the options of the broker."""
        return list(self)


app = Celery("cis_tasks", include=["cis_tasks.tasks", "cis_tasks.worker.step"])
app.config_from_object("celeryconfig")
fifo.install()
# JSON results come back as what they were: get() returns an Answer.
register_type(Answer, "cis_tasks.Answer", lambda a: a.model_dump(), Answer.model_validate)
