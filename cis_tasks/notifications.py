"""News of jobs, published to SNS topics where the settings name them; and the form of all news.

At most once, and never in a job's way: the record of a job is its manifest, and the queue of dead
letters is that of jobs that were given up. Names of sessions are in no notification unless
``CIS_SHOW_NAMES`` asks for them: subscribers get the job's id and look the rest up.
"""

from __future__ import annotations

import functools
import json
import os
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import boto3
import structlog
from botocore.config import Config
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cis_tasks import aws
from cis_tasks.jobs import Job
from cis_tasks.manifest import Manifest
from cis_tasks.pipelines import find
from cis_tasks.settings import settings

CONFIG = Config(
    connect_timeout=2,
    read_timeout=5,  # a job waits for it
    retries={"total_max_attempts": 2},
    user_agent_extra="cis-tasks",
)
log = structlog.get_logger(__name__)


class Notification(BaseModel):
    """What all of them have."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = Field(1, description="Grows when a reader has to know.")
    at: datetime = Field(description="When it happened, UTC.")


class JobNotification(Notification):
    """A job has ended, or was given up."""

    kind: Literal["job_succeeded", "job_failed", "job_given_up"] = Field(
        description="job_succeeded: there is an answer. job_failed: the input is bad, or the job "
        "was cancelled. job_given_up: its attempts ran out, it is a dead letter."
    )
    job_id: str = Field(description="For `cis status JOB` and `cis results JOB`.")
    pipeline: str = Field(description="Such as spine.")
    attempt: int = Field(ge=1, description="Which attempt it was, from 1.")
    seconds: float | None = Field(None, description="How long the attempt took.")
    code: str | None = Field(None, description="Why there is no answer: a stable code.")
    name: str | None = Field(None, description="Name of the session; with CIS_SHOW_NAMES only.")
    message: str | None = Field(
        None, description="Why there is no answer, in words; with CIS_SHOW_NAMES only."
    )
    manifest: str | None = Field(
        None, description="s3:// URL of the job's record; with CIS_SHOW_NAMES only."
    )

    def attributes(self) -> dict[str, str]:
        """What subscriptions can filter by."""
        found = {"kind": self.kind, "pipeline": self.pipeline, "code": self.code}
        return {name: value for name, value in found.items() if value}


class CapacityNotification(Notification):
    """The policy slo has set how many machines a group wants; `scaling.news` writes it."""

    kind: Literal["capacity_set"] = Field(description="A policy of ours set a group's capacity.")
    pipeline: str = Field(description="Whose group it is.")
    group: str = Field(description="Name of the Auto Scaling group.")
    policy: str = Field(description="Who decided.")
    before: int = Field(ge=0, description="Machines that the group wanted until then.")
    desired: int = Field(ge=0, description="Machines that it wants now.")
    reason: str = Field(description="Why, in a sentence.")


class AlarmNotification(Notification):
    """An alarm of CloudWatch has changed its state; `scaling.news` writes it."""

    kind: Literal["alarm_changed"] = Field(description="An alarm changed its state.")
    alarm: str = Field(description="Its name.")
    state: Literal["OK", "ALARM", "INSUFFICIENT_DATA"] = Field(description="What it is now.")
    before: Literal["OK", "ALARM", "INSUFFICIENT_DATA"] = Field(description="What it was.")
    reason: str = Field(description="Why, in CloudWatch's words.")
    description: str = Field(description="What it means, and what to do.")
    pipeline: str | None = Field(None, description="Which it is about; absent where about all.")


FORM: TypeAdapter[JobNotification | CapacityNotification | AlarmNotification] = TypeAdapter(
    Annotated[
        JobNotification | CapacityNotification | AlarmNotification, Field(discriminator="kind")
    ]
)
"""What a subscriber gets, as JSON; docs/notifications.schema.json is its schema."""


def job_ended(manifest: Manifest) -> None:
    """Tell that a job has ended; by whoever wrote its record."""
    error, named = manifest.error, settings().show_names
    seconds = (manifest.finished_at - manifest.started_at).total_seconds()
    _tell(
        settings().topic_jobs,
        JobNotification(
            kind="job_failed" if error else "job_succeeded",
            at=manifest.finished_at,
            job_id=manifest.job_id,
            pipeline=manifest.job["pipeline"],
            attempt=manifest.attempt,
            seconds=round(seconds, 3),
            code=error.code if error else None,
            name=manifest.job["name"] if named else None,
            message=error.message if error and named else None,
            manifest=manifest.url if named else None,
        ),
    )


def job_given_up(job: Job, attempt: int, receives: int, *, code: str, message: str) -> None:
    """Tell that a job's attempts ran out, once its message goes to the dead letters.

    Args:
        job: the job.
        attempt: which attempt failed last.
        receives: how often its message was received: SQS gives it out again until the queue's
            ``maxReceiveCount``.
        code: why.
        message: why, in words.
    """
    topic, named = settings().topic_dead_letters, settings().show_names
    if not topic or receives < _most_receives(job.pipeline):
        return
    _tell(
        topic,
        JobNotification(
            kind="job_given_up",
            at=datetime.now(UTC),
            job_id=job.id,
            pipeline=job.pipeline,
            attempt=attempt,
            code=code,
            name=job.name if named else None,
            message=message if named else None,
        ),
    )


def _tell(topic: str, notification: JobNotification) -> None:
    """Publish; what goes wrong is logged."""
    if not topic:
        return
    try:
        _sns(os.getpid()).publish(
            TopicArn=topic,
            Message=notification.model_dump_json(exclude_none=True),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in notification.attributes().items()
            },
        )
    except Exception as error:  # news of a job must not end it
        about = {"job_id": notification.job_id, "kind": notification.kind}
        log.warning("notification_not_sent", topic=topic, error=str(error), **about)


@functools.cache
def _most_receives(pipeline: str) -> int:
    """After how many receives SQS moves a message to the dead letters; 1 where it cannot be read.

    Then subscribers hear of each receive, rather than of none.
    """
    url = aws.queue_url(find(pipeline))
    try:
        answer = aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])
        return int(json.loads(answer["Attributes"]["RedrivePolicy"])["maxReceiveCount"])
    except Exception as error:  # see _tell
        log.warning("redrive_policy_not_read", queue=url, error=str(error))
        return 1


@functools.cache
def _sns(pid: int) -> Any:  # noqa: ARG001  a forked child needs its own
    return boto3.client("sns", config=CONFIG)
