"""taskiq on taskiq-aio-sqs: ``taskiq worker taskiq_app:broker``, and what publishes to it.

Its batching is off: on a FIFO queue it makes one call per group, which is one per job here.
"""

import asyncio
import os
import sys
import uuid
from typing import Any

import timing
from taskiq import TaskiqResult
from taskiq_aio_sqs import S3Backend, SQSBroker

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
KEYS = {"endpoint_url": ENDPOINT, "aws_access_key_id": "test", "aws_secret_access_key": "test"}
INTERVAL_S = float(os.environ["BENCH_POLLING_INTERVAL_S"])


class WantedResults(S3Backend[Any]):
    """Results of jobs that have any, as with Celery's ``ignore_result``."""

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Store a result, unless it is a mere None."""
        if result.is_err or result.return_value is not None:
            await super().set_result(task_id, result)


broker = SQSBroker(
    os.environ["BENCH_QUEUE"],
    max_number_of_messages=10,
    use_task_id_for_deduplication=True,
    **KEYS,
)
broker = broker.with_result_backend(WantedResults(os.environ["BENCH_BUCKET"], **KEYS))


@broker.task("bench.nothing")
async def nothing() -> None:
    """Do nothing."""


@broker.task("bench.echo")
async def echo(value: int) -> int:
    """Give back what was given."""
    return value


async def publish(count: int) -> None:
    """Publish jobs that do nothing."""
    for _ in range(count):
        await nothing.kicker().with_labels(group_id=uuid.uuid4().hex).kiq()


async def call(value: int) -> None:
    """Submit a job and wait for its result."""
    task = await echo.kicker().with_labels(group_id=uuid.uuid4().hex).kiq(value)
    result = await task.wait_result(check_interval=INTERVAL_S, timeout=60)
    assert result.return_value == value


async def main() -> None:
    """Do what the command line says."""
    await broker.startup()
    if sys.argv[1] == "publish":
        await publish(int(sys.argv[2]))
    else:
        await timing.report_async(call, float(sys.argv[2]))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
