"""Each attempt at a task as a span of the trace that its message belongs to.

Where spans go is OpenTelemetry's own configuration (``OTEL_EXPORTER_OTLP_ENDPOINT``, …). The span
is made in the process that runs the task, a pool's child too.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from celery import signals
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from cis_tasks.trace_context import HEADER, valid
from cis_tasks.worker.metrics import pipeline_of

SERVICE = "cis-worker"
FLUSH_MS = 5_000

_lock = threading.Lock()
_providers: dict[int, TracerProvider] = {}
_running = threading.local()


def install() -> None:
    """Make a span of every task that this process or its children run from now on."""
    signals.task_prerun.connect(_begin, dispatch_uid=__name__)
    signals.task_failure.connect(_fail, dispatch_uid=__name__)
    signals.task_retry.connect(_fail, dispatch_uid=__name__)
    signals.task_postrun.connect(_end, dispatch_uid=__name__)
    signals.worker_process_shutdown.connect(_flush, dispatch_uid=__name__)
    signals.worker_shutdown.connect(_flush, dispatch_uid=__name__)


def provider() -> TracerProvider:
    """This process's; the threads of a parent's do not live on in its children."""
    with _lock:
        found = _providers.get(os.getpid())
        if found is None:
            name = os.environ.get("OTEL_SERVICE_NAME", SERVICE)
            found = TracerProvider(resource=Resource.create({"service.name": name}))
            found.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            _providers[os.getpid()] = found
        return found


def _begin(task: Any = None, task_id: str = "", **_: object) -> None:
    request = task.request
    carrier = {HEADER: valid(getattr(request, HEADER, None))}
    span = (
        provider()
        .get_tracer(SERVICE)
        .start_span(
            f"{pipeline_of(task.name)} job",
            context=propagate.extract(carrier),
            kind=trace.SpanKind.CONSUMER,
            attributes={
                "messaging.system": "aws_sqs",
                "messaging.operation.type": "process",
                "cis.job_id": task_id,
                "cis.pipeline": pipeline_of(task.name),
                "cis.attempt": (request.retries or 0) + 1,
            },
        )
    )
    scope = trace.use_span(span, end_on_exit=False)
    scope.__enter__()
    _running.span, _running.scope = span, scope


def _fail(**fields: Any) -> None:
    """Note the kind of error; its words may name a person's file."""
    span = getattr(_running, "span", None)
    error = fields.get("exception") or fields.get("reason")
    if span is not None:
        code = getattr(error, "code", type(error).__name__)
        span.set_status(trace.Status(trace.StatusCode.ERROR, str(code)))


def _end(state: str = "", **_: object) -> None:
    span, scope = getattr(_running, "span", None), getattr(_running, "scope", None)
    if span is None or scope is None:
        return
    _running.span = _running.scope = None
    span.set_attribute("cis.state", str(state))
    scope.__exit__(None, None, None)
    span.end()


def _flush(**_: object) -> None:
    found = _providers.get(os.getpid())
    if found is not None:
        found.force_flush(FLUSH_MS)


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  the parent may have held it
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
