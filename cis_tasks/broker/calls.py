"""How many calls to AWS this process has made, per API: what a worker costs; and how many failed.

Every HTTP request counts, repetitions after an error too, since AWS bills them. The counts are a
process's own: those of a prefork pool's children are not in their parent's.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from typing import Any

logger = logging.getLogger(__name__)

NO_FAILURES = {404, 409, 412}
"""Answers above 400 that are asked for: nothing is there, and somebody else was first."""

_counts: Counter[str] = Counter()
_failures: Counter[str] = Counter()
_lock = threading.Lock()


def watch(client: Any) -> Any:
    """Count the calls of a boto3 client from now on; watching it twice counts once.

    Args:
        client: any boto3 client.

    Returns:
        The same client.

    Source: event ``before-send``,
    https://botocore.amazonaws.com/v1/documentation/api/latest/topics/events.html
    """
    client.meta.events.register("before-send", _on_send, unique_id=__name__)
    client.meta.events.register("response-received", _on_response, unique_id=f"{__name__}.failed")
    return client


def count(service: str, operation: str) -> None:
    """Count one call that no boto3 client makes."""
    with _lock:
        _counts[f"{service}.{operation}"] += 1


def count_failure(service: str, operation: str) -> None:
    """Count one call as failed that no boto3 client made."""
    with _lock:
        _failures[f"{service}.{operation}"] += 1


def made() -> dict[str, int]:
    """The calls made so far, as ``{"sqs.ReceiveMessage": 12, ...}``."""
    with _lock:
        return dict(sorted(_counts.items()))


def failed() -> dict[str, int]:
    """How many of them failed: no answer, or one of refusal, throttling or a fault."""
    with _lock:
        return dict(sorted(_failures.items()))


def log() -> None:
    """Write one line with the calls made so far, if there were any."""
    calls = made()
    if calls:
        each = ", ".join(f"{name} {number}" for name, number in calls.items())
        logger.info("AWS calls: %d (%s)", sum(calls.values()), each)


def reset() -> None:
    """Start again from zero."""
    with _lock:
        _counts.clear()
        _failures.clear()


def _on_send(event_name: str, **_: object) -> None:
    service, operation = event_name.split(".")[1:3]
    count(service, operation)


def _on_response(event_name: str, response_dict: Any = None, **_: object) -> None:
    status = response_dict["status_code"] if response_dict else None
    if status is None or (status >= 400 and status not in NO_FAILURES):
        service, operation = event_name.split(".")[1:3]
        count_failure(service, operation)


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  the parent's may be held by a thread that the child lacks
    _lock = threading.Lock()
    _counts.clear()
    _failures.clear()


os.register_at_fork(after_in_child=_after_fork)
