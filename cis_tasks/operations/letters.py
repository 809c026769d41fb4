"""A message of a job queue as people see it: which job, since when, how often received."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import MessageSystemAttributeNameType

ATTRIBUTES: Sequence[MessageSystemAttributeNameType] = (
    "ApproximateReceiveCount",
    "MessageDeduplicationId",
    "MessageGroupId",
    "SentTimestamp",
)


@dataclass(frozen=True)
class Letter:
    """One received message.

    Attributes:
        message_id: SQS's id of it.
        handle: its receipt handle.
        body: its body as it was sent.
        group: its message group.
        dedup: its deduplication id.
        sent_at: when it came into this queue.
        receives: how often it was received in all.
        task_id: Celery's id of the task, which is the job's; empty where it is no task.
        retries: how many attempts came before.
        job: the job; None where the message describes none.
        problem: why it describes none.
        attributes: SQS's message attributes, which go with it wherever it is sent.
    """

    message_id: str
    handle: str
    body: str
    group: str
    dedup: str
    sent_at: datetime
    receives: int
    task_id: str = ""
    retries: int = 0
    job: Job | None = None
    problem: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The id to call it by: the job's where it has one."""
        return self.task_id or self.message_id

    def age_s(self, now: datetime) -> float:
        """How long it has been in this queue, in seconds."""
        return (now - self.sent_at).total_seconds()


def read(message: Mapping[str, Any]) -> Letter:
    """The letter in one entry of ReceiveMessage's answer, whatever its body is."""
    attributes = message.get("Attributes", {})
    task_id, retries, job, problem = _contents(message["Body"])
    return Letter(
        message_id=message["MessageId"],
        handle=message["ReceiptHandle"],
        body=message["Body"],
        group=attributes.get("MessageGroupId", ""),
        dedup=attributes.get("MessageDeduplicationId", ""),
        sent_at=datetime.fromtimestamp(int(attributes.get("SentTimestamp", 0)) / 1000, UTC),
        receives=int(attributes.get("ApproximateReceiveCount", 1)),
        task_id=task_id,
        retries=retries,
        job=job,
        problem=problem,
        attributes=message.get("MessageAttributes", {}),
    )


def envelope(body: str) -> dict[str, Any]:
    """What kombu puts on the wire, with the task's own body decoded.

    Raises:
        ValueError: the body is something else.
    """
    payload = json.loads(_text(body))
    if not isinstance(payload, dict) or not isinstance(payload.get("headers"), dict):
        raise ValueError("it is no message of Celery's")  # noqa: TRY004  like malformed JSON
    inner = payload.get("body")
    if isinstance(inner, str):
        payload["body"] = json.loads(_text(inner))
    return payload


def _contents(body: str) -> tuple[str, int, Job | None, str]:
    """Task id, retries, job, and why there is none."""
    try:
        payload = envelope(body)
    except (ValueError, RecursionError):
        return "", 0, None, "it is no message of Celery's"
    headers = payload["headers"]
    task_id, retries = str(headers.get("id") or ""), int(headers.get("retries") or 0)
    try:
        return task_id, retries, Job.from_dict(payload["body"][1]["job"]), ""
    except (PermanentError, LookupError, TypeError):
        return task_id, retries, None, "its arguments describe no job"


def _text(body: str) -> str:
    """The text, with or without base64 around it."""
    text = body.strip()
    if text[:1] in {"{", "["}:
        return text
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("it is neither JSON nor base64") from error
