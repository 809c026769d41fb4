"""Deletes and visibility changes, ten to a call.

An acknowledgement costs a call each without this. Entries wait for a short window, or until a
call is full, and go out in the order in which they came. What fails for a reason that may pass
is sent again; what SQS refuses is reported.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

logger = logging.getLogger(__name__)

MAX_BATCH = 10  # entries that SQS takes in one call
WINDOW_S = 0.05  # a group's next message waits for it, so it must be short
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
MAX_ATTEMPTS = 20  # about a minute and a half


@dataclass(frozen=True, eq=False)
class JobQueue:
    """A queue of jobs as SQS knows it.

    Attributes:
        name: what Celery calls it.
        url: what SQS calls it.
        client: boto3 client with short timeouts, made for it.
        visibility_s: how long SQS hides a received message.
    """

    name: str
    url: str
    client: Any
    visibility_s: int


@dataclass(frozen=True)
class Entry:
    """One thing to be done to one received message.

    Attributes:
        queue: where it was received.
        handle: its receipt handle.
        visibility_s: seconds from now until others see it; None deletes it.
        attempts: how often it has been tried.
        not_before_s: time of the monotonic clock before which it waits.
    """

    queue: JobQueue
    handle: str
    visibility_s: int | None = None
    attempts: int = 0
    not_before_s: float = 0.0


@dataclass(frozen=True)
class Refusal:
    """Why SQS did not do an entry.

    Attributes:
        reason: its code and message.
        final: whether trying again is no use.
    """

    reason: str
    final: bool


def send(entries: Sequence[Entry]) -> dict[str, Refusal]:
    """Make one call for up to ten entries of one queue and one kind.

    Returns:
        What was refused, by receipt handle.

    Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteMessageBatch.html
    """
    first = entries[0]
    body: list[dict[str, Any]] = [
        {"Id": str(index), "ReceiptHandle": entry.handle} for index, entry in enumerate(entries)
    ]
    try:
        if first.visibility_s is None:
            answer = first.queue.client.delete_message_batch(QueueUrl=first.queue.url, Entries=body)
        else:
            for entry, fields in zip(entries, body, strict=True):
                fields["VisibilityTimeout"] = entry.visibility_s
            answer = first.queue.client.change_message_visibility_batch(
                QueueUrl=first.queue.url, Entries=body
            )
    except (BotoCoreError, ClientError, OSError) as error:
        return {entry.handle: Refusal(repr(error), final=False) for entry in entries}
    return {
        entries[int(failed["Id"])].handle: Refusal(
            f"{failed.get('Code')}: {failed.get('Message', '')}",
            final=bool(failed.get("SenderFault")),
        )
        for failed in answer.get("Failed", ())
    }


Done = Callable[[Entry, Refusal | None], None]
Send = Callable[[Sequence[Entry]], dict[str, Refusal]]


class Outbox:
    """Entries on their way to SQS, sent by a thread of its own.

    Args:
        done: told of each entry once it is done, or refused for good.
        send_batch: makes one call; `send` unless told otherwise.
        window_s: how long an entry waits for others to share its call.
    """

    def __init__(self, done: Done, *, send_batch: Send = send, window_s: float = WINDOW_S) -> None:
        self._done = done
        self._send = send_batch
        self._window_s = window_s
        self._changed = threading.Condition()  # reentrant: signal handlers come here too
        self._waiting: list[Entry] = []
        self._sending = 0
        self._urgent = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, entry: Entry, *, urgent: bool = False) -> None:
        """Take an entry; ``urgent`` sends all at once instead of waiting for the window."""
        with self._changed:
            self._waiting.append(replace(entry, not_before_s=time.monotonic() + self._window_s))
            self._urgent = self._urgent or urgent
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sqs-flush", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Send what waits and wait until all is done.

        Returns:
            Whether it was done in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._urgent = True
            self._changed.notify_all()
            while self._waiting or self._sending:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    def close(self) -> None:
        """End the thread; what still waits is not sent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not (entries := self._ready()):
                    self._changed.wait(self._pause_s())
                if self._closed:
                    return
                self._sending = len(entries)
            try:
                for batch in batches(entries):
                    self._attempt(batch)
            finally:
                with self._changed:
                    self._sending = 0
                    self._changed.notify_all()

    def _ready(self) -> list[Entry]:
        """Take out what is to be sent now."""
        now_s = time.monotonic()
        fresh = [entry for entry in self._waiting if not entry.attempts]
        go = len(fresh) >= MAX_BATCH or any(entry.not_before_s <= now_s for entry in fresh)
        ready = [
            entry
            for entry in self._waiting
            if self._urgent or entry.not_before_s <= now_s or (go and not entry.attempts)
        ]
        self._urgent = False
        if ready:
            taken = set(map(id, ready))
            self._waiting = [entry for entry in self._waiting if id(entry) not in taken]
        return ready

    def _pause_s(self) -> float | None:
        if not self._waiting:
            return None
        return max(0.0, min(entry.not_before_s for entry in self._waiting) - time.monotonic())

    def _attempt(self, batch: Sequence[Entry]) -> None:
        try:
            refused = self._send(batch)
        except Exception as error:  # a thread that dies would strand every later entry
            logger.exception("A batch of %d entries could not be sent", len(batch))
            refused = {entry.handle: Refusal(repr(error), final=False) for entry in batch}
        for entry in batch:
            refusal = refused.get(entry.handle)
            if refusal is None or refusal.final or entry.attempts + 1 >= MAX_ATTEMPTS:
                self._done(entry, refusal)
            else:
                self._again(entry, refusal)

    def _again(self, entry: Entry, refusal: Refusal) -> None:
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**entry.attempts)
        logger.warning(
            "SQS did not confirm that a message of %s was %s, trying again in %.1f s: %s",
            entry.queue.name,
            "deleted" if entry.visibility_s is None else "given back",
            pause_s,
            refusal.reason,
        )
        later_s = time.monotonic() + pause_s
        with self._changed:
            self._waiting.append(replace(entry, attempts=entry.attempts + 1, not_before_s=later_s))


def batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Up to ten entries of one queue and one kind each, in the order in which they came."""
    kinds: dict[tuple[int, bool], list[Entry]] = {}
    for entry in entries:
        kinds.setdefault((id(entry.queue), entry.visibility_s is None), []).append(entry)
    for same in kinds.values():
        for start in range(0, len(same), MAX_BATCH):
            yield same[start : start + MAX_BATCH]
