"""Celery's workers for tests, in threads of this process, on queues named in every way."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from celery import Celery, Task
from celery.contrib.testing.app import setup_default_app
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Reject

from cis_tasks.broker import replies
from cis_tasks.broker.owned import belongings
from cis_tasks.local.emulator import Emulator
from support.cloud import environment

WAIT_S = 120.0

MakeApp = Callable[..., Celery]


def add(x: int, y: int) -> int:
    return x + y


def reject_once(self: Task[Any, Any]) -> str:
    if not self.request.delivery_info["redelivered"]:
        raise Reject(requeue=True)
    return "came back"


@pytest.fixture
def make_app(emulator: Emulator) -> Iterator[MakeApp]:
    with environment(emulator.environment):
        bucket = f"embedded-{uuid.uuid4().hex[:8]}"
        boto3.client("s3").create_bucket(Bucket=bucket)

        def make(queue: str, **options: Any) -> Celery:
            app = Celery("embedded", set_as_current=False)
            app.conf.update(
                broker_url="sqs://",
                broker_transport="cis_tasks.broker.transport:Transport",
                worker_consumer="cis_tasks.broker.consumer:Consumer",
                result_backend="cis_tasks.broker.results:Backend",
                s3_bucket=bucket,
                task_default_queue=queue,
                worker_hijack_root_logger=False,
                broker_transport_options={
                    "queue_name_prefix": f"{bucket}-",
                    "wait_time_seconds": 20,
                    **options,
                },
            )
            app.task(name="add")(add)
            app.task(name="reject_once", bind=True, acks_late=True)(reject_once)
            return app

        yield make
        replies.close_all()
        belongings().drop_all()


def works(app: Celery, pool: str = "threads") -> bool:
    """Whether a worker does a job and ends in time, which ``start_worker`` sees to."""
    with setup_default_app(app), start_worker(app, pool=pool, perform_ping_check=False):
        return bool(app.tasks["add"].delay(1, 2).get(timeout=WAIT_S) == 3)


def attributes(queue: str) -> dict[str, str]:
    sqs = boto3.client("sqs")
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return dict(found)


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_ends_while_a_long_poll_is_open_and_another_follows(
    make_app: MakeApp, pool: str
) -> None:
    app = make_app("work.fifo")
    assert works(app, pool)
    assert works(app, pool)


@pytest.mark.parametrize("queue", ["work", "work.fifo"])
def test_a_queue_that_is_not_predefined_is_made_and_worked(make_app: MakeApp, queue: str) -> None:
    app = make_app(queue)
    assert works(app)
    made = attributes(app.conf.broker_transport_options["queue_name_prefix"] + queue)
    assert made.get("FifoQueue", "false") == str(queue.endswith(".fifo")).lower()
    assert made["ApproximateNumberOfMessages"] == "0"


def test_a_fifo_queue_may_have_any_name_in_celery(make_app: MakeApp) -> None:
    name = f"work-{uuid.uuid4().hex[:8]}.fifo"
    made = boto3.client("sqs").create_queue(QueueName=name, Attributes={"FifoQueue": "true"})
    app = make_app("celery", predefined_queues={"celery": {"url": made["QueueUrl"]}})
    assert works(app)


def test_a_message_that_was_rejected_is_marked_as_redelivered(make_app: MakeApp) -> None:
    app = make_app("work.fifo")
    with setup_default_app(app), start_worker(app, pool="threads", perform_ping_check=False):
        assert app.tasks["reject_once"].delay().get(timeout=WAIT_S) == "came back"
