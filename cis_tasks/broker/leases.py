"""Leases on received messages, kept from receipt until the message is settled.

SQS hides a received message for its queue's visibility timeout and then gives it to somebody
else. Without leases a job that takes longer, or that waits in a worker behind another, runs
twice. A thread extends every lease at a third of the timeout; a timer of the worker's event loop
would not do, because a solo pool's task blocks it.
"""

from __future__ import annotations

import atexit
import enum
import logging
import os
import threading
import time
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cis_tasks.broker import flush
from cis_tasks.broker.flush import Entry, JobQueue, Outbox, Refusal

logger = logging.getLogger(__name__)

MAX_HELD_S = 12 * 3600  # SQS hides a message no longer than this in all
LONGEST_PAUSE_S = 60.0
LATE_S = 60.0  # an extension that was not even tried for so long never will be
EXIT_TIMEOUT_S = 5.0  # for what is still to be sent when a process ends

_alive: weakref.WeakSet[Leases] = weakref.WeakSet()


class Phase(enum.Enum):
    """Where a leased message is."""

    HELD = "received, not handed to the consumer"
    GIVEN = "handed to the consumer"
    DELETING = "acknowledged; its delete is on its way"
    RELEASING = "given back; its release is on its way"


OPEN = (Phase.HELD, Phase.GIVEN)


@dataclass(eq=False, slots=True)
class Lease:
    """The right to one received message.

    Attributes:
        queue: where it was received.
        handle: its receipt handle.
        received_s: when, on the monotonic clock.
        expires_s: when SQS gives it to somebody else.
        due_s: when to extend it.
        job: what it is, for people.
        phase: where it is.
        lost: SQS has taken it back.
    """

    queue: JobQueue
    handle: str
    received_s: float
    expires_s: float
    due_s: float
    job: str
    phase: Phase = Phase.HELD
    lost: bool = False


class Leases:
    """The leases of one channel. All methods may be called from any thread.

    Args:
        window_s: how long acknowledgements wait for others to share their call.
    """

    def __init__(self, window_s: float = flush.WINDOW_S) -> None:
        self._lock = threading.RLock()  # reentrant: signal handlers come here too
        self._visibility_calls = threading.Lock()  # an extension must not undo a release
        #: Told whenever a lease is settled, so that there is room for another message.
        self.settled = threading.Condition(self._lock)
        self._tick = threading.Condition(self._lock)
        self._leases: dict[str, Lease] = {}
        self._open = 0
        self._wakes_s = 0.0  # when the keeper looks again
        self._outbox = Outbox(self._on_sent, send_batch=self._send, window_s=window_s)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()
        #: Whether the channel's end leaves what is being worked on under lease.
        self.outlive_channel = False
        _alive.add(self)

    def add(self, queue: JobQueue, messages: Collection[Mapping[str, Any]]) -> None:
        """Keep messages that have just been received; after `close`, give them back at once."""
        now_s = time.monotonic()
        with self._lock:
            if self._closed:
                _give_back(queue, messages)
                return
            for message in messages:
                self._leases[message["ReceiptHandle"]] = Lease(
                    queue=queue,
                    handle=message["ReceiptHandle"],
                    received_s=now_s,
                    expires_s=now_s + queue.visibility_s,
                    due_s=now_s + queue.visibility_s / 3,
                    job=f"message {message.get('MessageId')}",
                )
                self._open += 1
            if self._thread is None and self._leases:
                self._thread = threading.Thread(target=self._keep, name="sqs-leases", daemon=True)
                self._thread.start()
            if now_s + queue.visibility_s / 3 < self._wakes_s:
                self._tick.notify_all()

    def give(self, handle: str, job: str) -> bool:
        """Note that a message goes to the consumer.

        Returns:
            False where it is no longer ours to give.
        """
        with self._lock:
            lease = self._leases.get(handle)
            if lease is None or lease.phase is not Phase.HELD or lease.lost:
                return False
            lease.phase, lease.job = Phase.GIVEN, job
            return True

    @property
    def open(self) -> int:
        """How many messages are here and not settled."""
        return self._open

    @property
    def trouble(self) -> str:
        """What is wrong with the thread that extends leases; empty where nothing is.

        Calls that fail are not: it goes on trying.
        """
        with self._lock:
            kept, thread = self._kept(), self._thread
            if kept and (thread is None or not thread.is_alive()):
                return "the thread that extends leases has ended"
            late_s = max((time.monotonic() - lease.due_s for lease in kept), default=0.0)
            return (
                f"the thread that extends leases is {late_s:.0f} s late" if late_s > LATE_S else ""
            )

    def delete(self, handle: str) -> bool:
        """Settle a message whose effect is done; it stays leased until SQS has deleted it.

        Returns:
            False where it is not ours, as after it was released.
        """
        return self._settle(handle, Phase.DELETING, None)

    def release(self, handle: str, after_s: int = 0) -> bool:
        """Give a message back, visible to all after ``after_s`` seconds.

        Returns:
            False where it is not ours.
        """
        return self._settle(handle, Phase.RELEASING, after_s)

    def release_others(self, busy: Collection[str], *, held_only: bool = False) -> int:
        """Give back all messages but those whose handles are ``busy``, at once.

        Args:
            busy: receipt handles of messages that are being worked on.
            held_only: leave those that the consumer has.

        Returns:
            How many.
        """
        phases = (Phase.HELD,) if held_only else OPEN
        with self._lock:
            handles = [
                handle
                for handle, lease in self._leases.items()
                if lease.phase in phases and handle not in busy
            ]
            for handle in handles:
                self._settle(handle, Phase.RELEASING, 0, urgent=True)
        if handles:
            logger.info("Gave %d unstarted message(s) back", len(handles))
        return len(handles)

    @property
    def ours(self) -> bool:
        """Whether they are open and belong to this process, not to the one that forked it."""
        return not self._closed and self._pid == os.getpid()

    def flush(self, timeout_s: float) -> bool:
        """Send what is settled and wait until SQS has it; False where that took too long."""
        return self._outbox.flush(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Give everything back, send what is settled, and end the threads."""
        self.release_others(())
        if not self.flush(timeout_s):
            logger.error(
                "SQS has not confirmed all settled messages within %.0f s; those may come back "
                "after their visibility timeout",
                timeout_s,
            )
        with self._lock:
            self._closed = True
            self._outbox.close()
            self._tick.notify_all()
            self.settled.notify_all()

    # ------------------------------------------------------------------ settling

    def _settle(
        self, handle: str, phase: Phase, visibility_s: int | None, *, urgent: bool = False
    ) -> bool:
        with self._lock:
            lease = self._leases.get(handle)
            if lease is None or lease.phase not in OPEN:
                return False
            self._open -= 1
            if lease.lost:  # SQS has given it to another worker, whose business it is now
                del self._leases[handle]
            else:
                lease.phase = phase
                self._outbox.put(Entry(lease.queue, handle, visibility_s), urgent=urgent)
            self.settled.notify_all()
        return True

    def _send(self, entries: Sequence[Entry]) -> dict[str, Refusal]:
        if entries[0].visibility_s is None:
            return flush.send(entries)
        with self._visibility_calls:
            return flush.send(entries)

    def _on_sent(self, entry: Entry, refusal: Refusal | None) -> None:
        with self._lock:
            lease = self._leases.pop(entry.handle, None)
        if refusal is not None and lease is not None:
            done, else_ = (
                ("deleted", "it may run again")
                if entry.visibility_s is None
                else ("given back", "it may stay hidden for its visibility timeout")
            )
            logger.warning(
                "SQS did not confirm that %s of %s was %s, %s: %s",
                lease.job,
                entry.queue.name,
                done,
                else_,
                refusal.reason,
            )

    # ------------------------------------------------------------------ extending

    def _keep(self) -> None:
        while True:
            with self._lock:
                while not self._closed and not (due := self._due()):
                    pause_s = self._pause_s()
                    self._wakes_s = float("inf") if pause_s is None else time.monotonic() + pause_s
                    self._tick.wait(pause_s)
                if self._closed:
                    return
                self._wakes_s = 0.0
            try:
                for batch in flush.batches(due):
                    self._extend(batch)
            except Exception:  # the thread must outlive whatever happens to one batch
                logger.exception("Leases could not be extended")
                time.sleep(1)

    def _due(self) -> list[Entry]:
        """What to extend: once one lease of a queue is due, all that soon would be."""
        now_s = time.monotonic()
        queues = {lease.queue for lease in self._kept() if lease.due_s <= now_s}
        entries = []
        for lease in self._kept():
            if lease.queue not in queues or lease.due_s > now_s + lease.queue.visibility_s / 6:
                continue
            left_s = int(lease.received_s + MAX_HELD_S - now_s)
            if left_s < 1:
                self._lose(lease, "SQS lets nobody hold a message for more than 12 hours")
            else:
                visibility_s = min(lease.queue.visibility_s, left_s)
                entries.append(Entry(lease.queue, lease.handle, visibility_s))
        return entries

    def _kept(self) -> list[Lease]:
        return [
            lease
            for lease in self._leases.values()
            if lease.phase is not Phase.RELEASING and not lease.lost
        ]

    def _pause_s(self) -> float | None:
        kept = self._kept()
        if not kept:
            return None
        return max(0.0, min(lease.due_s for lease in kept) - time.monotonic())

    def _extend(self, batch: Sequence[Entry]) -> None:
        with self._visibility_calls:
            with self._lock:
                kept = {lease.handle for lease in self._kept()}
            entries = [entry for entry in batch if entry.handle in kept]
            if not entries:
                return
            asked_s = time.monotonic()
            refused = flush.send(entries)
        with self._lock:
            for entry in entries:
                lease = self._leases.get(entry.handle)
                if lease is not None:
                    self._extended(lease, entry, asked_s, refused.get(entry.handle))

    def _extended(
        self, lease: Lease, entry: Entry, asked_s: float, refusal: Refusal | None
    ) -> None:
        third_s = (entry.visibility_s or 0) / 3
        if refusal is None:
            lease.expires_s = asked_s + (entry.visibility_s or 0)
            lease.due_s = asked_s + third_s
        elif refusal.final and lease.phase in OPEN:
            self._lose(lease, refusal.reason)
        else:
            lease.due_s = time.monotonic() + min(third_s / 4, LONGEST_PAUSE_S)
            logger.warning(
                "The lease of %s could not be extended, %.0f s are left: %s",
                lease.job,
                lease.expires_s - time.monotonic(),
                refusal.reason,
            )

    def _lose(self, lease: Lease, reason: str) -> None:
        lease.lost = True
        if lease.phase not in OPEN:
            return
        logger.error(
            "Lost the lease of %s on %s: it will run again elsewhere. %s",
            lease.job,
            lease.queue.name,
            reason,
        )


def _give_back(queue: JobQueue, messages: Iterable[Mapping[str, Any]]) -> None:
    entries = [Entry(queue, message["ReceiptHandle"], visibility_s=0) for message in messages]
    for batch in flush.batches(entries):
        for refusal in flush.send(batch).values():
            logger.warning("A message of %s is hidden for a while: %s", queue.name, refusal.reason)


def alive() -> list[Leases]:
    """Those that this process has made and not closed."""
    return [leases for leases in _alive if leases.ours]


def _close_all() -> None:
    for leases in alive():
        leases.close(EXIT_TIMEOUT_S)


atexit.register(_close_all)
