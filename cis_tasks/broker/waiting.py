"""Waiting for results: replies as they come, and S3 in ever longer intervals beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import states
from celery.backends.asynchronous import BaseResultConsumer, Drainer, _waiting_on
from celery.exceptions import TimeoutError as CeleryTimeoutError

from cis_tasks.broker import bulk
from cis_tasks.broker.replies import Inbox, Reply, ReplyQueue

Meta = Mapping[str, Any]
OnMessage = Callable[[Meta], object]

TICK_S = 1.0  # longest wait between two calls of on_interval, as Celery's own backends do
FIRST_LOOK_S, LONGEST_LOOK_S, LOOK_GROWTH = 0.05, 2.0, 1.5  # into S3, where no reply will come
FIRST_CHECK_S, LONGEST_CHECK_S, CHECK_GROWTH = 2.0, 30.0, 2.0  # into S3, where one should


class Waits(BaseResultConsumer):  # type: ignore[misc]  # Celery has no types
    """What `AsyncBackendMixin` asks to wait; each wait has its own inbox and `on_message`."""

    def __init__(self, backend: Any, *args: Any) -> None:
        super().__init__(backend, *args)
        self.drainer = Drainer(self)  # each wait drains for itself, under gevent too
        self._own = threading.local()

    def answers_pending(self, task_id: str) -> bool:
        """Whether this thread is not to look into S3 for ``task_id`` just now."""
        return task_id in getattr(self._own, "unread", ())

    def consume_from(self, task_id: str) -> None:
        """Nothing to do: a wait listens for its tasks itself."""

    def cancel_for(self, task_id: str) -> None:
        """Nothing to do, and no lock to take: the garbage collector calls this."""

    def drain_events(self, timeout: float | None = None) -> None:
        """Nothing comes outside a wait."""
        time.sleep(timeout or 0)

    def on_state_change(self, meta: Meta, message: object = None) -> None:  # noqa: ARG002
        """Settle every result object of this backend that waits for the task."""
        if meta["status"] in states.READY_STATES:
            for result in _waiting_on(self._pending_results, meta["task_id"]):
                settle(result, meta)

    def _wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        on_interval: Callable[[], object] | None = None,
        on_message: OnMessage | None = None,
        **_: object,
    ) -> Iterator[None]:
        bulk.flush()  # what is awaited may not have been sent
        wait = Wait(self.backend, result, timeout, on_message)
        with wait.listening():
            while wait.step():
                yield
                if on_interval:
                    with self._leaving_unread(() if wait.looked else wait.parents):
                        on_interval()

    @contextmanager
    def _leaving_unread(self, task_ids: Iterable[str]) -> Iterator[None]:
        """Within the block, these tasks are taken to be pending.

        `AsyncResult.get` asks for the state of every parent at each interval; a chord's parents
        are its whole header.
        """
        self._own.unread = frozenset(task_ids)
        try:
            yield
        finally:
            self._own.unread = ()


class Wait:
    """One call's wait for a result or a set of them.

    Attributes:
        parents: ids of what was to run before; their failure ends the wait.
        looked: whether the last step looked into S3.
    """

    def __init__(
        self, backend: Any, result: Any, timeout_s: float | None, on_message: OnMessage | None
    ) -> None:
        self.looked = False
        self._backend = backend
        self._result = result
        self._on_message = on_message
        self._open = by_id(one for one in leaves(result) if one._cache is None)  # noqa: SLF001
        parents = by_id(ancestors(result))
        self.parents = frozenset(parents)
        self._known = {**parents, **self._open}
        self._replies: ReplyQueue = backend.replies
        self._address = self._replies.address
        now = time.monotonic()
        self._deadline = float("inf") if timeout_s is None else now + timeout_s
        self._looked_at, self._look_at = float("-inf"), now
        self._pause_s = 0.0
        self._seen: dict[str, tuple[float, object]] = {}
        self._published_at = self._when_published()
        if self._told_of_all(now):
            self._look_at = now + FIRST_CHECK_S

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, replies come in."""
        self._inbox: Inbox
        with self._replies.listen(list(self._known)) as self._inbox:
            yield

    def step(self) -> bool:
        """Wait for the next thing to happen and take it in.

        Returns:
            Whether there is more to wait for.

        Raises:
            celery.exceptions.TimeoutError: time is over, and S3 has no result either.
        """
        if self._settled():
            return False
        self.looked = False
        for reply in self._inbox.take(self._wait_s()):
            self._take(reply)
        now = time.monotonic()
        if not self._settled() and now >= min(self._look_at, self._deadline):
            self._look()
        if not self._settled() and now >= self._deadline:
            raise CeleryTimeoutError("The operation timed out.")
        return True

    def _settled(self) -> bool:
        return self._result.on_ready.ready or not self._open

    def _wait_s(self) -> float:
        now = time.monotonic()
        return min(self._look_at, self._deadline, now + TICK_S) - now

    def _take(self, reply: Reply) -> None:
        sent_at, _ = self._seen.get(reply.task_id, (0.0, None))
        if reply.sent_at < sent_at:  # overtaken on its way
            return
        if reply.payload is None:
            if reply.status in states.READY_STATES:
                self._look_at = 0.0  # it is too large for a message
            return
        self._tell(reply.task_id, reply.sent_at, self._backend.decode_result(reply.payload))

    def _look(self) -> None:
        """Read what S3 has of all that is pending, and decide when to look again."""
        self.looked = True
        started = time.monotonic()
        for task_id, meta in self._backend.look_up(list(self._open)).items():
            if meta is not None:
                sent_at, _ = self._seen.get(task_id, (0.0, None))
                self._tell(task_id, sent_at, meta)
        self._looked_at, now = started, time.monotonic()
        if self._told_of_all(started):
            pause_s, growth, longest_s = self._pause_s, CHECK_GROWTH, LONGEST_CHECK_S
            self._pause_s = min(max(FIRST_CHECK_S, pause_s * growth), longest_s)
        else:
            pause_s = min(max(FIRST_LOOK_S, self._pause_s * LOOK_GROWTH), LONGEST_LOOK_S)
            self._pause_s = max(pause_s, 2 * (now - started))  # many tasks take long to look up
        self._look_at = now + self._pause_s

    def _tell(self, task_id: str, sent_at: float, meta: Meta) -> None:
        ended = meta["status"] in states.READY_STATES
        news = (meta["status"], None if ended else repr(meta.get("result")))
        _, before = self._seen.get(task_id, (0.0, None))
        self._seen[task_id] = (sent_at, news)
        if self._on_message and news != before:
            self._on_message(meta)
        if ended:
            for result in self._known.get(task_id, ()):
                settle(result, meta)
            self._open.pop(task_id, None)
            self._backend.result_consumer.on_state_change(meta)

    def _when_published(self) -> float | None:
        """When the last of the tasks was published with this process's address; None if not all.

        A task that comes after another in a chain or chord has its address from there.
        """
        found = []
        for results in self._open.values():
            line = [results[0], *ancestors(results[0]), *ancestors(self._result)]
            published = [self._replies.published(result.id) for result in line]
            if published[0] and published[0].answered:
                return None  # its reply went to somebody else: look it up
            times = [one.at for one in published if one]
            if not times:
                return None
            found.append(max(times))
        return max(found, default=None)

    def _told_of_all(self, looked_at: float) -> bool:
        """Whether every result there is by ``looked_at`` has been seen, and others are pushed."""
        live_since = self._replies.live_since
        if live_since is None or self._published_at is None:
            return False
        if self._replies.address != self._address:  # what is under way goes to the old one
            return False
        return live_since < self._published_at or (
            self._looked_at > float("-inf") and live_since < looked_at
        )


def settle(result: Any, meta: Meta) -> None:
    """Give a result object its final state, once."""
    if result._cache is None:  # noqa: SLF001
        result._maybe_set_cache(dict(meta))  # noqa: SLF001  this is how Celery's backends do


def leaves(result: Any) -> Iterator[Any]:
    """The single results in a result, a set of them, or sets of sets."""
    members = getattr(result, "results", None)
    if members is None:
        yield result
        return
    for member in members:
        yield from leaves(member)


def ancestors(result: Any) -> Iterator[Any]:
    """The single results of all that ran before ``result``."""
    parent = result.parent
    while parent is not None:
        yield from leaves(parent)
        parent = parent.parent


def by_id(results: Iterable[Any]) -> dict[str, list[Any]]:
    """Result objects by the id of their task; there may be several for one."""
    found: dict[str, list[Any]] = {}
    for result in results:
        found.setdefault(result.id, []).append(result)
    return found
