"""What a worker has done and how fast, for health checks, metrics and people."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cis_tasks.worker.gpus import Gpu, read_gpus

WINDOW_S = 60.0


@dataclass(frozen=True)
class Snapshot:
    """A process's figures at one moment.

    Attributes:
        images: classified since its start.
        failures: jobs that ended without an answer because of their input.
        images_per_s: over the last minute, or since the start where that is less.
        busy: share of that time in which a device ran a batch, 0 to the number of devices.
        batches: size → how many batches of it since the start.
        mean_batch: images per batch since the start; 0 before the first.
        model: name and version of the model that is loaded first; empty before.
        runtime: what runs it.
        devices: where.
        gpus: the machine's, as NVML sees them.
    """

    images: int
    failures: int
    images_per_s: float
    busy: float
    batches: dict[int, int]
    mean_batch: float
    model: str
    runtime: str
    devices: tuple[str, ...]
    gpus: tuple[Gpu, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "batches": {str(size): n for size, n in self.batches.items()}}


class Figures:
    """Counts what one process does."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started_at = clock()
        self._batches: Counter[int] = Counter()
        self._failures = 0
        self._recent: deque[tuple[float, int, float]] = deque()
        self._model, self._runtime, self._devices = "", "", tuple[str, ...]()

    def serve(self, model: str, runtime: str, devices: Iterable[str]) -> None:
        """Note what this process serves."""
        self._model, self._runtime, self._devices = model, runtime, tuple(devices)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch that took so long."""
        now = self._clock()
        with self._lock:
            self._batches[size] += 1
            self._recent.append((now, size, seconds))
            self._forget(now)

    def failure(self) -> None:
        """Count a job without an answer."""
        with self._lock:
            self._failures += 1

    def snapshot(self) -> Snapshot:
        """The figures now."""
        now = self._clock()
        with self._lock:
            self._forget(now)
            batches = dict(sorted(self._batches.items()))
            recent = list(self._recent)
            failures = self._failures
        span_s = max(min(WINDOW_S, now - self._started_at), 1e-9)
        images = sum(size * count for size, count in batches.items())
        return Snapshot(
            images=images,
            failures=failures,
            images_per_s=sum(size for _, size, _ in recent) / span_s,
            busy=sum(seconds for _, _, seconds in recent) / span_s,
            batches=batches,
            mean_batch=images / max(1, sum(batches.values())),
            model=self._model,
            runtime=self._runtime,
            devices=self._devices,
            gpus=read_gpus(),
        )

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - WINDOW_S:
            self._recent.popleft()


figures = Figures()
"""Of this process."""
