"""Takes readings of a queue and its group."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.errors import PermanentError, TransientError
from scaling.backlog import Reading, read_backlog
from scaling.group import Group, learned_boot_s, read_activities, read_group
from scaling.service import ServiceTimes

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_sqs.client import SQSClient

CONFIG = Config(
    retries={"mode": "standard", "max_attempts": 3},
    connect_timeout=5,
    read_timeout=20,
    user_agent_extra="cis-tasks-scaling",
)
REFUSED = ("AccessDenied", "UnauthorizedOperation", "UnrecognizedClient", "InvalidClientTokenId")
MISSING = ("NonExistentQueue", "QueueDoesNotExist")


@dataclass(frozen=True)
class Watched:
    """A queue and the group that works through it.

    Attributes:
        pipeline: whose they are.
        queue_url: URL of the queue.
        group: name of the Auto Scaling group.
        bucket: output bucket, whose manifests tell how long jobs run; empty if nobody may look.
        slots: jobs that one instance runs at a time.
        service_s: how long a job runs, until jobs have told.
        boot_s: from launch to first job, until instances have told.
    """

    pipeline: str
    queue_url: str
    group: str
    bucket: str = ""
    slots: int = 1
    service_s: float | None = None
    boot_s: float | None = None

    @property
    def queue(self) -> str:
        """Name of the queue."""
        return self.queue_url.rpartition("/")[2]


@dataclass(frozen=True)
class Clients:
    """The AWS clients of this room."""

    sqs: SQSClient
    s3: S3Client
    autoscaling: Any
    cloudwatch: Any

    @classmethod
    def make(cls) -> Clients:
        """Clients as boto3's standard chain and AWS_ENDPOINT_URL say."""
        make = boto3.client
        return cls(
            sqs=make("sqs", config=CONFIG),
            s3=make("s3", config=CONFIG),
            autoscaling=make("autoscaling", config=CONFIG),
            cloudwatch=make("cloudwatch", config=CONFIG),
        )


class Reader:
    """Reads one queue and its group, and learns service and boot times on the way."""

    def __init__(self, watched: Watched, clients: Clients) -> None:
        self.watched = watched
        self._clients = clients
        self._service = (
            ServiceTimes(clients.s3, watched.bucket, watched.pipeline) if watched.bucket else None
        )

    def read(self) -> tuple[Reading, Group]:
        """Take a reading.

        Raises:
            PermanentError: queue or group are missing, or may not be read.
            TransientError: AWS did not answer.
        """
        watched = self.watched
        try:
            backlog = read_backlog(self._clients.sqs, watched.queue_url)
            group = read_group(self._clients.autoscaling, watched.group)
        except (ClientError, BotoCoreError) as error:
            raise explained(error, f"the queue {watched.queue} and its group") from error
        reading = Reading(
            time_s=time.time(),
            visible=backlog.visible,
            in_flight=backlog.in_flight,
            delayed=backlog.delayed,
            in_service=group.in_service,
            pending=group.pending,
            desired=group.desired,
            min=group.min,
            max=group.max,
            oldest_s=None,
            service_s=self._service_s(),
            boot_s=self._boot_s(),
            slots=watched.slots,
        )
        return reading, group

    def _service_s(self) -> float | None:
        """Learned; the queue can be worked through without anybody knowing it."""
        learned = None
        if self._service is not None:
            with contextlib.suppress(ClientError, BotoCoreError):
                learned = self._service.mean_s()
        return learned if learned is not None else self.watched.service_s

    def _boot_s(self) -> float | None:
        learned = None
        with contextlib.suppress(ClientError, BotoCoreError):
            activities = read_activities(self._clients.autoscaling, self.watched.group)
            learned = learned_boot_s(activities)
        return learned if learned is not None else self.watched.boot_s


def explained(error: ClientError | BotoCoreError, what: str) -> PermanentError | TransientError:
    """What an AWS error means for who reads or publishes."""
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    if any(word in code for word in REFUSED):
        return PermanentError(
            "scaling_refused",
            f"AWS refuses to show or change {what}: {error}.",
            "Run it with the role of the stack's publisher, or give its permissions.",
        )
    if any(word in code for word in MISSING):
        return PermanentError(
            "queue_missing",
            f"There is no such queue: {what}: {error}.",
            "Check the queue's URL; the stack's outputs name it.",
        )
    return TransientError("scaling_unavailable", f"AWS did not answer about {what}: {error}.")
