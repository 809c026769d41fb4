"""No more than so many a second."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Spaces what is done in a loop.

    Args:
        per_s: how many a second.
        clock: seconds that only grow.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._step_s = 1 / per_s
        self._next_s = float("-inf")
        self._clock, self._sleep = clock, sleep

    def wait(self) -> None:
        """Return when the next one may be done."""
        now_s = self._clock()
        if self._next_s > now_s:
            self._sleep(self._next_s - now_s)
        self._next_s = max(self._next_s, now_s) + self._step_s
