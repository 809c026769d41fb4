"""The Celery app."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celery import Celery, signals
from kombu.utils.json import register_type

from cis_tasks import aws
from cis_tasks.broker import fifo
from cis_tasks.manifest import Answer
from cis_tasks.pipelines import PIPELINES
from cis_tasks.settings import settings


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


app = Celery("cis_tasks", include=["cis_tasks.tasks"])
app.config_from_object("celeryconfig")
fifo.install()
# JSON results come back as what they were: get() returns an Answer.
register_type(Answer, "cis_tasks.Answer", lambda a: a.model_dump(), Answer.model_validate)


@signals.celeryd_init.connect(weak=False)  # type: ignore[untyped-decorator]
def watch_the_machine(**_: Any) -> None:
    """Let a worker on EC2 leave its machine in good order."""
    if settings().drain == "ec2":
        from cis_tasks.worker.drain import Drain  # noqa: PLC0415  who only publishes needs no worker

        app.steps["worker"].add(Drain)
