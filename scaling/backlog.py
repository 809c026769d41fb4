"""What a queue looks like right now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

COUNTS: dict[str, QueueAttributeNameType] = {
    "visible": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}


@dataclass(frozen=True)
class Backlog:
    """Messages of one queue; SQS's counts are approximate.

    Attributes:
        visible: waiting for a worker.
        in_flight: held by workers.
        delayed: not to be received yet.
    """

    visible: int
    in_flight: int
    delayed: int

    @property
    def outstanding(self) -> int:
        """Work that is not done: waiting and running."""
        return self.visible + self.in_flight + self.delayed


def read_backlog(sqs: SQSClient, queue_url: str) -> Backlog:
    """Read a queue's counts.

    Raises:
        botocore.exceptions.ClientError: the queue is missing or may not be read.

    Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html
    """
    names = list(COUNTS.values())
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
    return Backlog(**{field: int(attributes[name]) for field, name in COUNTS.items()})
