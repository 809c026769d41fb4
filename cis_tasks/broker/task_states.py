"""The stored states of tasks: a success stays, and progress costs one write now and then."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from celery import states
from celery.utils.log import get_logger

from cis_tasks.broker.objects import ConditionError, Objects

STATE = "state"  # the metadata that says what a stored state is
EXPIRES = "expires"  # and until when it counts, in seconds since the epoch
MAX_REMEMBERED = 1000  # tasks whose last write this process knows
MAX_ATTEMPTS = 20  # each is lost to another writer, so one of them got on

log = get_logger(__name__)


@dataclass(frozen=True)
class State:
    """A task's state as it is stored.

    Attributes:
        name: such as SUCCESS.
        body: what is stored of it.
        lifetime_s: how long it counts from now; None for ever.
    """

    name: str
    body: bytes
    lifetime_s: float | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """What is stored beside the body."""
        made = {STATE: self.name} if self.name in states.ALL_STATES else {}
        if self.lifetime_s:
            made[EXPIRES] = str(int(time.time() + self.lifetime_s))
        return made


@dataclass
class _Task:
    """What this process knows of one task's stored state."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    etag: str | None = None
    stored_at: float = float("-inf")
    waiting: State | None = None
    """Progress that is to be stored when its time has come."""


class TaskStates:
    """Writes the states of tasks, one object each.

    A stored SUCCESS is never overwritten: not by a stale worker whose task was given to another
    one, and not by progress that was slow on its way. Each write names the version that it
    replaces, so no read comes before it.

    Without the interval between stored progress, a task that reports a hundred times a second
    would be a hundred S3 writes a second.
    """

    def __init__(self, objects: Objects, interval_s: float) -> None:
        """Prepare; nothing is read or written.

        Args:
            objects: where states are stored.
            interval_s: least time between two stored progress reports of one task.
        """
        self._objects = objects
        self._interval_s = interval_s
        self._tasks: OrderedDict[str, _Task] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, key: str, state: State) -> bool:
        """Store a state now.

        Returns:
            False where a SUCCESS stands there, which stays.
        """
        task = self._task(key)
        with task.lock:
            task.waiting = None
            written = self._write(key, task, state)
        if state.name in states.READY_STATES:
            with self._lock:
                self._tasks.pop(key, None)
        return written

    def report(self, key: str, state: State) -> None:
        """Store progress: now, or the newest of it when the interval since the last is over."""
        task = self._task(key)
        with task.lock:
            if task.waiting is not None:
                task.waiting = state
                return
            left_s = task.stored_at + self._interval_s - time.monotonic()
            if left_s <= 0:
                self._write(key, task, state)
                return
            task.waiting = state
            timer = threading.Timer(left_s, self._write_waiting, (key, task))
            timer.name, timer.daemon = "task-progress", True
            timer.start()

    def _write_waiting(self, key: str, task: _Task) -> None:
        with task.lock:
            state, task.waiting = task.waiting, None
            if state is None:  # another state came in the meantime
                return
            try:
                task.etag = self._objects.replace(key, state.body, task.etag, state.metadata)
            except ConditionError:
                pass  # it is old news: another process has stored a newer state
            except Exception as error:  # news of a task must not end anything
                log.warning("the progress of a task was not stored as %s: %s", key, error)

    def _write(self, key: str, task: _Task, state: State) -> bool:
        task.stored_at = time.monotonic()
        for _ in range(MAX_ATTEMPTS):
            try:
                task.etag = self._objects.replace(key, state.body, task.etag, state.metadata)
            except ConditionError:
                found = self._objects.head(key)
                if found and found.metadata.get(STATE) == states.SUCCESS:
                    return False
                task.etag = found.etag if found else None
            else:
                return True
        raise OSError(
            f"The state {state.name} was not stored as {key}: "
            f"others wrote to it {MAX_ATTEMPTS} times in a row. Are many tasks of the same id?"
        )

    def _task(self, key: str) -> _Task:
        with self._lock:
            task = self._tasks.setdefault(key, _Task())
            self._tasks.move_to_end(key)
            if len(self._tasks) > MAX_REMEMBERED:
                self._tasks.popitem(last=False)
            return task
