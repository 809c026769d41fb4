"""FIFO ids on every message that Celery publishes.

Without this, kombu puts every message into the group ``default``, which lets one worker at a
time work however many there are, and gives each a random deduplication id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from celery import current_task, signals
from kombu.utils.json import dumps


def install() -> None:
    """Give every message that this process publishes its group and deduplication id."""
    signals.before_task_publish.connect(set_ids, dispatch_uid="cis_tasks.broker.fifo")


def set_ids(
    body: object = None,
    headers: Mapping[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    **_: object,
) -> None:
    """Set ``MessageGroupId`` and ``MessageDeduplicationId`` of one message.

    The group is the caller's own, else, for a retry, that of the attempt before, else the task
    id. The deduplication id is one per attempt, so that SQS's five-minute window swallows a
    message published twice and never a retry. A message that something follows (a link, the next
    of a chain, a chord's body) is another message than one without: swallowing it would lose
    what follows.
    """
    if properties is None or not headers or "id" not in headers:
        return
    task_id, retries = headers["id"], headers.get("retries") or 0
    if not properties.get("MessageGroupId"):
        properties["MessageGroupId"] = _group_of_attempt_before(task_id, retries) or task_id
    if retries or not properties.get("MessageDeduplicationId"):
        properties["MessageDeduplicationId"] = f"{task_id}:{retries}{_continuation(body)}"


def _continuation(body: object) -> str:
    """A mark of what follows the task, empty where nothing does; protocol 2 has it in the body."""
    follows = body[2] if isinstance(body, (tuple, list)) and len(body) == 3 else None
    if not isinstance(follows, Mapping) or not any(follows.values()):
        return ""
    return ":" + hashlib.sha256(dumps(follows, sort_keys=True).encode()).hexdigest()[:16]


def _group_of_attempt_before(task_id: str, retries: int) -> str | None:
    """The group of the running attempt, where the message is its retry."""
    request = current_task.request if retries and current_task else None
    if request is None or request.id != task_id:
        return None
    group = (request.properties or {}).get("MessageGroupId")
    return group if isinstance(group, str) else None
