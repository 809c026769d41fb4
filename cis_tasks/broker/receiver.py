"""A thread that keeps one long poll open on a queue, whatever goes wrong.

kombu polls from its event loop with curl: one failed receive ends its chain of callbacks, after
which a worker looks ready and is deaf; a connection that hangs does so for ever; and a receive
waits for the loop to wake. Here a receive follows as soon as there is room, an error is followed
by a pause and another try, and what cannot be cured ends the worker.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

MAX_MESSAGES = 10  # what SQS gives in one receive
LINGER_S = 0.05  # for more room, while there is work to go on with
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
GIVE_UP_S = 300.0

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Room:
    """For how many messages there is room.

    Attributes:
        free: how many more may be taken.
        limit: how many may be held in all; 0 is no limit.
        waiting: how many have not been started.
    """

    free: int
    limit: int
    waiting: int

    @property
    def count(self) -> int:
        """How many to ask for."""
        return max(0, min(self.free, MAX_MESSAGES)) if self.limit else MAX_MESSAGES

    @property
    def plenty(self) -> bool:
        """Whether so many wait that nobody will be idle until as many have ended as run now."""
        return bool(self.limit) and self.waiting >= self.limit - self.free - self.waiting

    @property
    def ample(self) -> bool:
        """Whether asking now needs no more calls than asking later."""
        return not self.limit or not self.waiting or self.free >= min(self.limit, MAX_MESSAGES)


@dataclass(frozen=True)
class Work:
    """What a receiver does, and for whom.

    Attributes:
        queue: name of the queue.
        room: says how many messages may be received.
        changed: told whenever there may be more room; not when one that waits is started.
        receive: gets up to so many messages, waiting as long as its long poll does.
        deliver: takes what was received; also when the receiver was stopped meanwhile.
        give_up: ends the worker.
        pause_s: at least between two receives that found nothing and did not wait either.
        give_up_s: how long receives may fail before the worker ends.
        longest_s: how long one receive may take, whatever happens to it.
    """

    queue: str
    room: Callable[[], Room]
    changed: threading.Condition
    receive: Callable[[int], Messages]
    deliver: Callable[[Messages], None]
    give_up: Callable[[str], None]
    pause_s: float = 1.0
    give_up_s: float = GIVE_UP_S
    longest_s: float = 30.0


_alive: weakref.WeakSet[Receiver] = weakref.WeakSet()


class Receiver:
    """Receives from one queue until it is stopped."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._wanted = True
        self._ended = False
        self._failing_since_s: float | None = None
        self._failures = 0
        self._asked_s: float | None = None
        name = f"sqs-receive-{work.queue}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        _alive.add(self)

    @property
    def wanted(self) -> bool:
        """Whether it is to go on receiving."""
        return self._wanted

    @property
    def deaf_s(self) -> float:
        """For how long it has tried to receive in vain, the poll that is open now included.

        0 where it does not try, as when there is no room for more.
        """
        if not self._wanted:
            return 0.0
        if self._ended or not self._thread.is_alive():
            return float("inf")
        since_s = self._failing_since_s or self._asked_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def resume(self) -> bool:
        """Go on after `stop`; False where it has ended already."""
        with self._work.changed:
            self._wanted = True
            return not self._ended

    def stop(self) -> None:
        """Receive no more after the receive that is under way."""
        with self._work.changed:
            self._wanted = False
            self._work.changed.notify_all()

    def end(self) -> None:
        """Stop, and wait until the receive that is under way has been answered.

        SQS goes on with a long poll whose caller has gone: what it hands to it then is hidden for
        the visibility timeout. So a process must not end before its last poll has.

        Source: https://github.com/aws/aws-sdk-js/issues/2350
        """
        self.stop()
        if self._thread.is_alive():
            logger.info(
                "Waiting for the open receive from %s to end, %.0f s at most",
                self._work.queue,
                self._work.longest_s,
            )
        self._thread.join(self._work.longest_s)

    def _run(self) -> None:
        try:
            while count := self._await_room():
                self._receive(count)
        except BaseException as error:
            self._ended = True
            logger.critical("Receiving from %s ended: %r", self._work.queue, error, exc_info=True)
            self._work.give_up(repr(error))
            raise

    def _await_room(self) -> int:
        """How many to ask for, once there is room; 0 once stopped."""
        changed, linger_until_s = self._work.changed, 0.0
        with changed:
            while self._wanted:
                room = self._work.room()
                now_s = time.monotonic()
                if not room.count:
                    changed.wait()
                elif room.plenty and not room.ample:
                    changed.wait(LINGER_S)  # nobody tells when one that waits is started
                elif room.ample or 0.0 < linger_until_s <= now_s:
                    return room.count
                else:
                    linger_until_s = linger_until_s or now_s + LINGER_S
                    changed.wait(linger_until_s - now_s)
            self._ended = True
        return 0

    def _receive(self, count: int) -> None:
        asked_s = self._asked_s = time.monotonic()
        try:
            messages = self._work.receive(count)
        except Exception as error:
            if self._wanted:
                self._failed(error)
            else:
                logger.warning("The last receive from %s failed: %r", self._work.queue, error)
            return
        finally:
            self._asked_s = None
        if self._failing_since_s is not None:
            logger.warning("Receiving from %s works again", self._work.queue)
        self._failing_since_s, self._failures = None, 0
        if messages:
            self._work.deliver(messages)
        elif time.monotonic() - asked_s < self._work.pause_s:
            self._pause(self._work.pause_s)

    def _failed(self, error: Exception) -> None:
        now_s = time.monotonic()
        self._failing_since_s = self._failing_since_s or now_s
        failing_s = now_s - self._failing_since_s
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._failures)
        self._failures += 1
        logger.warning(
            "Receiving from %s failed, for %.0f s now; trying again within %.1f s: %r",
            self._work.queue,
            failing_s,
            pause_s,
            error,
        )
        if failing_s > self._work.give_up_s:
            self._work.give_up(f"no receive has worked for {failing_s:.0f} s; the last: {error!r}")
        self._pause(random.uniform(pause_s / 2, pause_s))  # noqa: S311  jitter, no secret

    def _pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        with self._work.changed:
            while self._wanted and (left_s := until_s - time.monotonic()) > 0:
                self._work.changed.wait(left_s)


def end_all() -> None:
    """End those of this process, all at the same time."""
    receivers = list(_alive)
    for receiver in receivers:
        receiver.stop()
    for receiver in receivers:
        receiver.end()
