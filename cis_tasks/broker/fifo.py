"""FIFO ids on every message that Celery publishes.

Without this, kombu puts every message into the group ``default``, which lets one worker at a
time work however many there are, and gives each a random deduplication id.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

from celery import current_task, signals
from kombu.utils.json import dumps

MAX_AHEAD_S = 12 * 3600  # a worker holds a task until its ETA, and SQS lets it no longer
RUN = "chord_run"  # property of the body of a chord that is applied again
_ACCEPTED = re.compile(r"[!-~]{1,128}")  # letters, digits and punctuation


class EtaTooFarError(ValueError):
    """A task is to run later than a worker can hold it."""


def install() -> None:
    """Give every message that this process publishes its group and deduplication id."""
    signals.before_task_publish.connect(set_ids, dispatch_uid="cis_tasks.broker.fifo")


def set_ids(
    body: object = None,
    headers: Mapping[str, Any] | None = None,
    properties: MutableMapping[str, Any] | None = None,
    **_: object,
) -> None:
    """Set ``MessageGroupId`` and ``MessageDeduplicationId`` of one message.

    The group is the caller's own, else, for a retry, that of the attempt before, else the task
    id. The deduplication id is one per attempt, so that SQS's five-minute window swallows a
    message published twice and never a retry. A message that something follows (a link, the next
    of a chain, a chord's body) is another message than one without: swallowing it would lose
    what follows. So is one that replaces its task, or that another task published with other
    arguments.
    """
    if properties is None or not headers or "id" not in headers:
        return
    task_id, retries = str(headers["id"]), headers.get("retries") or 0
    if not properties.get("MessageGroupId"):
        group = _group_of_attempt_before(task_id, retries) or task_id
        properties["MessageGroupId"] = accepted(group)
    if retries or not properties.get("MessageDeduplicationId"):
        mark = _continuation(body) + _replacement(headers) + _publisher(headers, body)
        mark += f":{properties[RUN]}" if RUN in properties else ""
        properties["MessageDeduplicationId"] = accepted(f"{task_id}:{retries}{mark}")


def complete(properties: MutableMapping[str, Any]) -> None:
    """Set the ids of a message that is no task's; it stands alone."""
    for name in ("MessageGroupId", "MessageDeduplicationId"):
        if not properties.get(name):
            properties[name] = str(uuid.uuid4())


def refuse_far_eta(headers: Mapping[str, Any]) -> None:
    """Refuse a task that is to run more than 12 hours from now.

    FIFO queues have no delay per message: a worker receives the task and holds it under lease
    until it is due, and SQS lets nobody hold a message for longer than 12 hours.

    Raises:
        EtaTooFarError: it is.
    """
    eta = headers.get("eta")
    if not eta:
        return
    due = eta if isinstance(eta, datetime) else datetime.fromisoformat(str(eta))
    ahead_s = ((due if due.tzinfo else due.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    if ahead_s > MAX_AHEAD_S:
        raise EtaTooFarError(
            f"Task {headers.get('task')}[{headers.get('id')}] is to run in "
            f"{ahead_s / 3600:.1f} hours. On SQS FIFO a worker can hold a task for 12 hours at "
            "most: give a nearer eta or countdown, or let celery beat publish it when it is due."
        )


def accepted(name: str) -> str:
    """The name, or a hash of it where SQS does not take it as an id."""
    if _ACCEPTED.fullmatch(name):
        return name
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


def _continuation(body: object) -> str:
    """A mark of what follows the task, empty where nothing does; protocol 2 has it in the body."""
    follows = body[2] if isinstance(body, (tuple, list)) and len(body) == 3 else None
    if not isinstance(follows, Mapping) or not any(follows.values()):
        return ""
    return ":" + _hash(follows)


def _replacement(headers: Mapping[str, Any]) -> str:
    """A mark of how often the task has replaced itself, which keeps its id."""
    nesting = headers.get("replaced_task_nesting") or 0
    return f":r{nesting}" if nesting else ""


def _publisher(headers: Mapping[str, Any], body: object) -> str:
    """A mark of the arguments where a task publishes: one callback may follow several tasks."""
    parent = headers.get("parent_id")
    if not parent or parent == headers["id"] or not isinstance(body, (tuple, list)):
        return ""  # a retry's parent is the task itself
    return ":" + _hash(list(body[:2]))


def _hash(value: object) -> str:
    try:
        text = dumps(value, sort_keys=True)
    except Exception:  # whatever its own serializer takes; then no two messages are the same
        text = str(uuid.uuid4())
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _group_of_attempt_before(task_id: str, retries: int) -> str | None:
    """The group of the running attempt, where the message is its retry."""
    request = current_task.request if retries and current_task else None
    if request is None or request.id != task_id:
        return None
    group = (request.properties or {}).get("MessageGroupId")
    return group if isinstance(group, str) else None
