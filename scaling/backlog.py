"""What a queue and the group that works through it look like at one moment."""

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


@dataclass(frozen=True)
class Reading:
    """A queue and its group at one moment: all that a policy knows.

    Attributes:
        time_s: when, in seconds since the epoch.
        visible: messages that wait for a worker.
        in_flight: messages held by workers.
        delayed: messages not to be received yet.
        in_service: instances that take jobs.
        pending: instances that start.
        desired: how many the group wants.
        min: the group's fewest.
        max: the group's most.
        oldest_s: age of the oldest message that waits; None where nobody knows.
        service_s: how long a job runs, on average; None where no job has told yet.
        boot_s: from an instance's launch to its first job; None where none has told yet.
        slots: jobs that one instance runs at a time.
    """

    time_s: float
    visible: int
    in_flight: int
    delayed: int = 0
    in_service: int = 0
    pending: int = 0
    desired: int = 0
    min: int = 0
    max: int = 1
    oldest_s: float | None = None
    service_s: float | None = None
    boot_s: float | None = None
    slots: int = 1

    @property
    def outstanding(self) -> int:
        """Jobs that are not done: waiting, running and delayed."""
        return self.visible + self.in_flight + self.delayed

    @property
    def backlog_per_instance(self) -> float:
        """Waiting jobs for each instance in service; no instance counts as one.

        So an empty group has all that waits on its one first instance, and the alarm that adds
        instances goes off from zero, too.

        Source: https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-using-sqs-queue.html
        """
        return self.visible / max(1, self.in_service)

    @property
    def outstanding_per_instance(self) -> float:
        """Waiting and running jobs for each instance in service; no instance counts as one."""
        return (self.visible + self.in_flight) / max(1, self.in_service)

    @property
    def drain_s(self) -> float | None:
        """How long the instances in service need for all that waits and runs.

        None where nobody knows: no service time yet, or work and nobody to do it.
        """
        if not self.visible + self.in_flight:
            return 0.0
        if self.service_s is None or not self.in_service:
            return None
        return (self.visible + self.in_flight) * self.service_s / (self.in_service * self.slots)

    @property
    def without_capacity(self) -> bool:
        """Whether work waits and there is no instance in service or starting."""
        return self.visible > 0 and not self.in_service + self.pending


def read_backlog(sqs: SQSClient, queue_url: str) -> Backlog:
    """Read a queue's counts.

    Raises:
        botocore.exceptions.ClientError: the queue is missing or may not be read.

    Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html
    """
    names = list(COUNTS.values())
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
    return Backlog(**{field: int(attributes[name]) for field, name in COUNTS.items()})
