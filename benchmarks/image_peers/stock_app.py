"""Celery with kombu's own SQS transport, polling 20 times a second."""

import os
import sys
import uuid

import work
from celery import Celery
from celery.signals import celeryd_init, worker_process_init

QUEUE = os.environ["BENCH_QUEUE"]

app = Celery("bench")
app.conf.update(
    broker_url="sqs://",
    broker_transport_options={
        "predefined_queues": {QUEUE: {"url": os.environ["BENCH_QUEUE_URL"]}},
        "polling_interval": 0.05,
    },
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="bench.classify")
def classify(key: str) -> None:
    """One job."""
    work.classify(key)


@worker_process_init.connect
def in_child(**_: object) -> None:
    """Each process its own model."""
    work.ready()


@celeryd_init.connect
def in_worker(**_: object) -> None:
    """Threads share one."""
    if "threads" in sys.argv:
        work.ready()


if __name__ == "__main__":
    for key in work.upload(int(sys.argv[2])):
        own = uuid.uuid4().hex
        classify.apply_async((key,), MessageGroupId=own, MessageDeduplicationId=own)
