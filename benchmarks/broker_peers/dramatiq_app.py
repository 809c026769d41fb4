"""dramatiq on dramatiq-sqs: ``dramatiq dramatiq_app``, and what publishes to it.

It knows standard queues alone, makes them itself, and has no results on AWS.
"""

import os
import sys

import dramatiq
from dramatiq_sqs import SQSBroker

QUEUE = os.environ["BENCH_QUEUE"]

dramatiq.set_broker(SQSBroker(endpoint_url=os.environ["AWS_ENDPOINT_URL"]))


@dramatiq.actor(queue_name=QUEUE)
def nothing() -> None:
    """Do nothing."""


if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        nothing.send()
