"""Micro-batches: many threads with one item each, one thread that runs them together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WAIT_S = 0.01

log = structlog.get_logger(__name__)


@dataclass
class _Entry(Generic[Item, Result]):
    item: Item
    future: Future[Result] = field(default_factory=Future)


class MicroBatcher(Generic[Item, Result]):
    """Runs what several threads hand in as one batch.

    It is adaptive: a batch starts as soon as nobody who has announced an item still has to hand
    it in, so that a lone job waits for nothing. When a batch fails, its items are run one by one:
    a bad one fails alone.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        *,
        max_batch: int,
        max_wait_s: float = MAX_WAIT_S,
        name: str = "batcher",
        observe: Callable[[int, float], object] = lambda _size, _seconds: None,
    ) -> None:
        """Start its thread, which ends with the process or `close`.

        Args:
            run: gives a result for each item, in order; called by one thread.
            max_batch: largest number of items that it is given.
            max_wait_s: longest time that an item waits for others that are announced.
            name: of the thread.
            observe: told the size of each batch and the seconds that it took.
        """
        self._run, self._observe = run, observe
        self._max_batch, self._max_wait_s = max_batch, max_wait_s
        self._changed = threading.Condition()
        self._waiting: list[_Entry[Item, Result]] = []
        self._announced = 0
        self._running = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def load(self) -> int:
        """Items that are announced, waiting or running."""
        return self._announced + len(self._waiting) + self._running

    @contextmanager
    def announced(self) -> Iterator[Callable[[Item], Result]]:
        """Within the block an item is on its way; the value hands it in and waits for its result.

        Whoever leaves the block without handing in, such as on an error, is waited for no longer.
        """
        handed_in = False
        with self._changed:
            self._announced += 1

        def hand_in(item: Item) -> Result:
            nonlocal handed_in
            entry: _Entry[Item, Result] = _Entry(item)
            with self._changed:
                if self._closed:
                    raise RuntimeError("the batcher is closed")
                if not handed_in:
                    handed_in, self._announced = True, self._announced - 1
                self._waiting.append(entry)
                self._changed.notify_all()
            return entry.future.result()

        try:
            yield hand_in
        finally:
            if not handed_in:
                with self._changed:
                    self._announced -= 1
                    self._changed.notify_all()

    def close(self) -> None:
        """Finish what was handed in, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._finish(batch)
            with self._changed:
                self._running = 0

    def _next(self) -> list[_Entry[Item, Result]]:
        """Wait for the next batch; empty when closed and done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            deadline = time.monotonic() + self._max_wait_s
            while not self._full():
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    break
            batch = self._waiting[: self._max_batch]
            del self._waiting[: self._max_batch]
            self._running = len(batch)
            return batch

    def _full(self) -> bool:
        """Whether there is nothing to wait for."""
        return self._closed or not self._announced or len(self._waiting) >= self._max_batch

    def _finish(self, batch: list[_Entry[Item, Result]]) -> None:
        started = time.perf_counter()
        try:
            results = self._run([entry.item for entry in batch])
        except BaseException as error:  # the thread must go on: others wait for it
            self._settle_failed(batch, error)
            return
        self._observe(len(batch), time.perf_counter() - started)
        for entry, result in zip(batch, results, strict=True):
            entry.future.set_result(result)

    def _settle_failed(self, batch: list[_Entry[Item, Result]], error: BaseException) -> None:
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        log.warning("batch_failed", size=len(batch), error=f"{type(error).__name__}: {error}")
        for entry in batch:
            self._finish([entry])
