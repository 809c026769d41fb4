"""dramatiq on dramatiq-sqs, which knows standard queues alone and makes them itself."""

import os
import sys

import dramatiq
import work
from dramatiq_sqs import SQSBroker

dramatiq.set_broker(SQSBroker(endpoint_url=os.environ["AWS_ENDPOINT_URL"]))


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def classify(key: str) -> None:
    """One job."""
    work.classify(key)


if __name__ == "__main__":
    for key in work.upload(int(sys.argv[2])):
        classify.send(key)
