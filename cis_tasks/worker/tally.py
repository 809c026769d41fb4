"""What became of each task, told to whoever observes: metrics, logs.

Observed in the worker's own process, whatever the pool: its children only run the tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.app.task import Task
from celery.exceptions import Ignore, Reject, Retry
from celery.worker import request as stock

log = structlog.get_logger(__name__)

OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (Retry, "retried"),
    (Reject, "given_up"),
    (Ignore, "ignored"),
    (Terminated, "cancelled"),
    (TimeLimitExceeded, "timed_out"),
    (WorkerLostError, "lost"),
)


@dataclass(frozen=True)
class Ended:
    """One attempt at a task that has ended.

    Attributes:
        task: the task's name.
        task_id: its id, which is the job's.
        outcome: ``succeeded``, ``failed`` (for good), ``retried``, ``given_up``, ``timed_out``,
            ``lost`` (its process died), ``cancelled`` or ``ignored``.
        seconds: how long it ran.
    """

    task: str
    task_id: str
    outcome: str
    seconds: float


Observer = Callable[[Ended], None]
_observers: list[Observer] = []


def observe(observer: Observer) -> None:
    """Tell ``observer`` of every attempt that ends in this worker, from now on."""
    if not _observers:
        Task.Request = f"{__name__}:Request"
    if observer not in _observers:
        _observers.append(observer)


class Request(stock.Request):  # type: ignore[misc]  # celery is untyped
    """Celery's request that tells how it ended."""

    accepted_s: float | None = None
    told: bool = False  # a process that is killed for its time ends twice

    def __init_subclass__(cls, **options: Any) -> None:
        """Celery makes a subclass for each task, with a success handler of its own."""
        super().__init_subclass__(**options)
        theirs = cls.on_success

        def on_success(self: Request, result: Any, **kwargs: Any) -> Any:
            failed, _, runtime = result
            if not failed:
                self.tell("succeeded", runtime)
            return theirs(self, result, **kwargs)

        cls.on_success = on_success

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """A process begins with it."""
        self.accepted_s = time.monotonic()
        super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """It ended with an exception."""
        error = exc_info.exception
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        found = [outcome for kind, outcome in OUTCOMES if isinstance(error, kind)]
        self.tell(found[0] if found else "failed")
        return super().on_failure(exc_info, *args, **kwargs)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """It ran out of time."""
        if not soft:
            self.tell("timed_out")
        return super().on_timeout(soft, timeout)

    def tell(self, outcome: str, seconds: float | None = None) -> None:
        """Tell the observers, once."""
        if self.told:
            return
        self.told = True
        if seconds is None:
            seconds = 0.0 if self.accepted_s is None else time.monotonic() - self.accepted_s
        ended = Ended(self.task_name, self.task_id, outcome, seconds)
        for observer in _observers:
            try:
                observer(ended)
            except Exception as error:  # counting a job must not end it
                log.warning("observer_failed", error=repr(error))
