"""The loop that one writes first: receive ten, do them one by one, delete each."""

import os
import sys
import uuid

import boto3
import work

URL = os.environ["BENCH_QUEUE_URL"]
sqs = boto3.client("sqs")


def publish(count: int) -> None:
    """One call for each."""
    for key in work.upload(count):
        own = uuid.uuid4().hex
        sqs.send_message(
            QueueUrl=URL, MessageBody=key, MessageGroupId=own, MessageDeduplicationId=own
        )


def run() -> None:
    """For ever."""
    work.ready()
    while True:
        found = sqs.receive_message(QueueUrl=URL, MaxNumberOfMessages=10, WaitTimeSeconds=20)
        for message in found.get("Messages", []):
            work.classify(message["Body"])
            sqs.delete_message(QueueUrl=URL, ReceiptHandle=message["ReceiptHandle"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["publish"]:
        publish(int(sys.argv[2]))
    else:
        run()
