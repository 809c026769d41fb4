"""Bounded admission: how many requests may wait, and how many bytes may be held.

Without it, a burst beyond what the workers can do fills the memory and every client waits for
longer than any wants to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cis_tasks.web.problems import busy

RETRY_AFTER_S = 5


class Admission:
    """Counts what one process has taken on.

    Attributes:
        waiting: requests that wait for a job.
        held: bytes of bodies in memory.
        refused: how many requests were turned away.
    """

    def __init__(self, max_waiting: int, max_held: int) -> None:
        self._max_waiting, self._max_held = max_waiting, max_held
        self.waiting = self.held = self.refused = 0

    @contextmanager
    def waits(self) -> Iterator[None]:
        """Within the block, one more request waits.

        Raises:
            Problem: as many wait as may.
        """
        if self.waiting >= self._max_waiting:
            self.refused += 1
            raise busy(
                "too_many_waiting", f"{self.waiting} requests are waiting already.", RETRY_AFTER_S
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    @contextmanager
    def holds(self) -> Iterator[Held]:
        """Within the block, one more body is in memory."""
        held = Held(self)
        try:
            yield held
        finally:
            held.release()

    def hold(self, size: int) -> None:
        """Count ``size`` more bytes.

        Raises:
            Problem: there is no room for them.
        """
        if self.held + size > self._max_held:
            self.refused += 1
            raise busy("too_many_bytes", "Too many images are on their way.", RETRY_AFTER_S)
        self.held += size

    def release(self, size: int) -> None:
        """Count ``size`` bytes less."""
        self.held -= size


class Held:
    """The bytes of one body."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._size = 0

    def add(self, size: int) -> None:
        """More of the body has come.

        Raises:
            Problem: there is no room for it.
        """
        self._admission.hold(size)
        self._size += size

    def release(self) -> None:
        """The body is no longer in memory."""
        self._admission.release(self._size)
        self._size = 0
