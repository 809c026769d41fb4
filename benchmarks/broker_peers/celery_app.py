"""Celery, stock or with our layer: ``celery -A celery_app worker``, and what publishes to it.

BENCH_LAYER chooses ``stock`` or ``ours``, BENCH_POLLING_INTERVAL_S sets stock's interval; its
default is kombu's own. BENCH_QUEUE, BENCH_QUEUE_URL and BENCH_BUCKET say where.
"""

from __future__ import annotations

import os
import sys
import uuid
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import timing
from celery import Celery

QUEUE = os.environ["BENCH_QUEUE"]
OURS = os.environ["BENCH_LAYER"] == "ours"
INTERVAL_S = float(os.environ.get("BENCH_POLLING_INTERVAL_S", "0"))

options: dict[str, Any] = {"predefined_queues": {QUEUE: {"url": os.environ["BENCH_QUEUE_URL"]}}}
if INTERVAL_S:
    options["polling_interval"] = INTERVAL_S

app = Celery("bench")
app.conf.update(
    broker_url="sqs://",
    broker_transport_options=options,
    result_backend="s3",
    s3_bucket=os.environ["BENCH_BUCKET"],
    s3_base_path="results/",
    s3_endpoint_url=os.environ["AWS_ENDPOINT_URL"],
    task_default_queue=QUEUE,
    task_acks_late=True,  # as all the others do
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)
if OURS:
    options["queue_name_prefix"] = "bench-"
    app.conf.update(
        broker_transport="cis_tasks.broker.transport:Transport",
        worker_consumer="cis_tasks.broker.consumer:Consumer",
        result_backend="cis_tasks.broker.results:Backend",
    )


@app.task(name="bench.nothing", ignore_result=True)
def nothing() -> None:
    """Do nothing."""


@app.task(name="bench.echo")
def echo(value: int) -> int:
    """Give back what was given."""
    return value


def ids() -> dict[str, str]:
    """A group per job; our layer sets it by itself."""
    own = uuid.uuid4().hex
    return {} if OURS else {"MessageGroupId": own, "MessageDeduplicationId": own}


def batching() -> AbstractContextManager[None]:
    """Ten messages to a call where the system can."""
    if not OURS:
        return nullcontext()
    from cis_tasks.broker.bulk import batched  # noqa: PLC0415  ours alone

    return batched()


def publish(count: int) -> None:
    """Publish jobs that do nothing."""
    with batching():
        for _ in range(count):
            nothing.apply_async(**ids())


def call(value: int) -> None:
    """Submit a job and wait for its result."""
    interval = {"interval": INTERVAL_S} if INTERVAL_S else {}
    assert echo.apply_async((value,), **ids()).get(timeout=60, **interval) == value


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        publish(int(sys.argv[2]))
    else:
        timing.report(call, float(sys.argv[2]))
