"""The soak's jobs: ``celery -A soak_app worker``, and ``python soak_app.py COUNT`` to publish them.

SOAK_QUEUE, SOAK_QUEUE_URL, SOAK_BUCKET and SOAK_STARTS say where, SOAK_PAUSE_S how long a job
takes on average, SOAK_SOFT_S how long a soft shutdown waits.
"""

from __future__ import annotations

import os
import random
import sys
import time
import uuid
from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from celery import Celery

from cis_tasks.broker.bulk import NotSentError, batched

QUEUE = os.environ["SOAK_QUEUE"]
BLOCK = 100  # jobs published together
ATTEMPTS = 20  # at publishing a block
JOBS = uuid.UUID("5f0c8f1e-98c2-4e0b-9d1d-3f3f5f9a0001")  # names the jobs' ids
IMPATIENT = Config(
    connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2}
)

app = Celery("soak")
app.conf.update(
    broker_url="sqs://",
    broker_transport="cis_tasks.broker.transport:Transport",
    worker_consumer="cis_tasks.broker.consumer:Consumer",
    broker_transport_options={
        "predefined_queues": {QUEUE: {"url": os.environ["SOAK_QUEUE_URL"]}},
        "queue_name_prefix": "soak-",
        "wait_time_seconds": 5,
    },
    broker_connection_retry_on_startup=True,
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_acks_on_failure_or_timeout=False,
    worker_prefetch_multiplier=2,
    worker_soft_shutdown_timeout=float(os.environ.get("SOAK_SOFT_S", "0")),
)


@cache
def s3() -> Any:
    """The client of this process, which leaves most trying again to Celery."""
    return boto3.client("s3", config=IMPATIENT)


@app.task(
    name="soak.effect",
    autoretry_for=(BotoCoreError, ClientError),
    max_retries=None,
    retry_backoff=True,
    retry_backoff_max=5,
)
def effect(number: int) -> None:
    """Note the start, take a while, and write an object that must not be there yet."""
    with open(os.environ["SOAK_STARTS"], "a") as starts:  # noqa: PTH123  one write, appended whole
        starts.write(f"{number}\n")
    time.sleep(random.Random(number).uniform(0, 2 * float(os.environ["SOAK_PAUSE_S"])))
    try:
        s3().put_object(
            Bucket=os.environ["SOAK_BUCKET"], Key=f"{number:06}", Body=b"", IfNoneMatch="*"
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "PreconditionFailed":
            raise


def publish(count: int) -> None:
    """Publish the jobs, each block again until it is known to be sent: a second time is no harm."""
    for first in range(0, count, BLOCK):
        numbers = range(first, min(first + BLOCK, count))
        for attempt in range(ATTEMPTS):
            try:
                with batched():
                    for number in numbers:
                        effect.apply_async((number,), task_id=str(uuid.uuid5(JOBS, str(number))))
                break
            except (NotSentError, BotoCoreError, ClientError, OSError):
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.5)


if __name__ == "__main__":
    publish(int(sys.argv[1]))
