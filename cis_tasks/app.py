"""The Celery app."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

from celery import Celery, current_task, signals
from kombu.utils.json import register_type

from cis_tasks import aws, trace_context
from cis_tasks.broker import fifo
from cis_tasks.manifest import Answer
from cis_tasks.pipelines import PIPELINES
from cis_tasks.settings import settings
from cis_tasks.trace_context import HEADER


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


app = Celery("cis_tasks", include=["cis_tasks.tasks", "cis_tasks.worker.step"])
app.config_from_object("celeryconfig")
fifo.install()


def _add_trace(headers: MutableMapping[str, object] | None = None, **_: object) -> None:
    """Hand the trace on that this process, or the task that publishes, is in."""
    if headers is not None:
        task = current_task
        trace_context.inject(headers, getattr(task.request, HEADER, None) if task else None)


def _equip_worker(**_: object) -> None:
    """Let a worker tell of its health, trace its jobs and leave its machine in good order."""
    from cis_tasks.worker import health  # noqa: PLC0415  nobody else needs it

    if health.wanted(settings()):
        health.install(app)
    if settings().tracing:
        from cis_tasks.worker import tracing  # noqa: PLC0415  OpenTelemetry is optional

        tracing.install()
    if settings().drain == "ec2":
        from cis_tasks.worker.drain import Drain  # noqa: PLC0415  nobody else needs it

        app.steps["worker"].add(Drain)


signals.before_task_publish.connect(_add_trace, dispatch_uid="cis_tasks.trace_context")
signals.celeryd_init.connect(_equip_worker, dispatch_uid="cis_tasks.worker")

# JSON results come back as what they were: get() returns an Answer.
register_type(Answer, "cis_tasks.Answer", lambda a: a.model_dump(), Answer.model_validate)
