"""How many calls to AWS this process has made, per API: what a worker costs.

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

_counts: Counter[str] = Counter()
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
    return client


def count(service: str, operation: str) -> None:
    """Count one call that no boto3 client makes."""
    with _lock:
        _counts[f"{service}.{operation}"] += 1


def made() -> dict[str, int]:
    """The calls made so far, as ``{"sqs.ReceiveMessage": 12, ...}``."""
    with _lock:
        return dict(sorted(_counts.items()))


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


def _on_send(event_name: str, **_: object) -> None:
    service, operation = event_name.split(".")[1:3]
    count(service, operation)


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  the parent's may be held by a thread that the child lacks
    _lock = threading.Lock()
    _counts.clear()


os.register_at_fork(after_in_child=_after_fork)
