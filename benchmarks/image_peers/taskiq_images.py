"""taskiq on taskiq-aio-sqs; the job runs in a thread, as what computes must there."""

import asyncio
import os
import sys
import uuid

import work
from taskiq_aio_sqs import SQSBroker

broker = SQSBroker(
    os.environ["BENCH_QUEUE"],
    max_number_of_messages=10,
    use_task_id_for_deduplication=True,
    endpoint_url=os.environ["AWS_ENDPOINT_URL"],
    aws_access_key_id="test",
    aws_secret_access_key="test",
)


@broker.task("bench.classify")
async def classify(key: str) -> None:
    """One job."""
    await asyncio.to_thread(work.classify, key)


async def publish(count: int) -> None:
    """One call for each."""
    await broker.startup()
    for key in work.upload(count):
        await classify.kicker().with_labels(group_id=uuid.uuid4().hex).kiq(key)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(publish(int(sys.argv[2])))
