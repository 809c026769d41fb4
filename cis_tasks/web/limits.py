"""The rate limit of one token: a bucket that fills steadily and is emptied by requests."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_REMEMBERED = 10_000  # who asked; the longest silent are forgotten, with a full bucket


class RateLimit:
    """How many requests each asker may make.

    Buckets are those of one process: behind a balancer with N processes, N times as many get
    through.
    """

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, asker: str) -> float:
        """Count one request; 0 where it may pass, else the seconds until one may."""
        now = self._clock()
        left, since = self._buckets.get(asker, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._per_s)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._per_s
        self._buckets[asker] = (left - 1 if left >= 1 else left, now)
        self._buckets.move_to_end(asker)
        if len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        return wait_s


def retry_after(wait_s: float) -> str:
    """Seconds for a ``Retry-After`` header, which are whole ones."""
    return str(max(1, math.ceil(wait_s)))
