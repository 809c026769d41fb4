"""Whether anybody is likely to command a worker just now."""

from __future__ import annotations

import sys
import threading
import time

AFTER_JOB_S = 60.0  # those who send jobs, and those who have just started a worker, may ask
AFTER_COMMAND_S = 600.0  # a person at work looks again
PAUSE_S = 60.0  # between two long polls of a mailbox that nobody needs


class Attention:
    """Lapses after a while without jobs and commands.

    A worker always listens for jobs, in long polls of 20 s. To listen for commands all the time
    too would double what it costs when idle, so it does that only while somebody is likely to
    command it, and otherwise looks into its mailbox once in a while.

    Attributes:
        pause_s: how long to rest between two looks; 0 for never.
        after_job_s: how long a job, or the start, keeps it up.
        after_command_s: how long a command does.
    """

    def __init__(self) -> None:
        self.pause_s = PAUSE_S
        self.after_job_s = AFTER_JOB_S
        self.after_command_s = AFTER_COMMAND_S
        self._until_s = float("-inf")
        self._renewed = threading.Event()

    def on_job(self) -> None:
        """A job has arrived, or the worker has started."""
        self._keep(self.after_job_s)

    def on_command(self) -> None:
        """A command has arrived."""
        self._keep(self.after_command_s)

    def _keep(self, seconds: float) -> None:
        self._until_s = max(self._until_s, time.monotonic() + seconds)
        self._renewed.set()

    def rest(self, stopped: threading.Event) -> None:
        """Return at once while attentive; else after the pause, or when that changes."""
        end_s = time.monotonic() + self.pause_s
        while self._lapsed() and time.monotonic() < end_s and not stopped.is_set():
            self._renewed.clear()
            self._renewed.wait(1.0)

    def _lapsed(self) -> bool:
        if self._holds_jobs():
            self.on_job()
            return False
        return time.monotonic() > self._until_s

    @staticmethod
    def _holds_jobs() -> bool:
        state = sys.modules.get("celery.worker.state")  # absent where there is no worker
        return state is not None and bool(state.reserved_requests or state.active_requests)
