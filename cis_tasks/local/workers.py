"""Worker processes of the laptop cloud: the same ``celery worker`` as on a GPU host."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from cis_tasks.local import ready
from cis_tasks.local.errors import CloudError
from cis_tasks.local.process import Process

READY_TIMEOUT_S = 180.0
STOP_GRACE_S = 10.0


class State(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Worker:
    """One ``celery -A APP worker -Q QUEUE`` process with its pool.

    Attributes:
        name: unique among the workers of one state folder.
        queue: the queue that it works through.
    """

    def __init__(
        self,
        name: str,
        queue: str,
        *,
        environment: Mapping[str, str],
        folder: Path,
        app: str = "cis_tasks",
        options: Sequence[str] = (),
    ) -> None:
        """Launch it; `await_ready` waits until it takes jobs.

        Args:
            name: what to call it.
            queue: name of the queue, as in ``-Q``.
            environment: all its environment variables; see `environment.of_worker`.
            folder: where its log and its sign of readiness go.
            app: what ``-A`` names.
            options: further options of ``celery worker``.
        """
        self.name = name
        self.queue = queue
        folder.mkdir(parents=True, exist_ok=True)
        self._sign = (folder / f"{name}.ready").resolve()
        self._sign.unlink(missing_ok=True)
        self._stopping = False
        command = [
            *(sys.executable, "-m", "celery", "-A", app, "worker"),
            *("-Q", queue, "-n", f"{name}@%h", "--loglevel", "INFO"),
            *("--include", ready.__name__, *options),
        ]
        env = {**environment, ready.VARIABLE: str(self._sign)}
        self._process = Process(command, log=folder / f"{name}.log", env=env)

    @property
    def pid(self) -> int:
        """Process id of the worker itself; its pool's children are in its process group."""
        return self._process.pid

    @property
    def log(self) -> Path:
        """Its log file."""
        return self._process.log

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number where a signal ended it."""
        return self._process.exit_code

    @property
    def state(self) -> State:
        """What it is doing."""
        if self._process.running:
            if self._stopping:
                return State.STOPPING
            return State.READY if self._sign.exists() else State.STARTING
        return State.STOPPED if self._stopping else State.FAILED

    def await_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until it takes jobs.

        Raises:
            CloudError: it ended or was not ready in time; carries the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while self.state is State.STARTING and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.state is State.READY:
            return
        code = self.exit_code
        what = f"was not ready after {timeout_s:.0f} s" if code is None else f"ended with {code}"
        tail = self._process.log_tail()
        raise CloudError(f"The worker {self.name} {what}. The end of {self.log}:\n{tail}")

    def terminate(self) -> None:
        """Ask it to finish its job and end (SIGTERM); returns at once."""
        self._stopping = True
        self._process.terminate()

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End it: SIGTERM, and SIGKILL after ``grace_s``; an unfinished job goes to another."""
        self._stopping = True
        self._process.stop(grace_s)
        self._sign.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL to it and its pool, as when its machine is switched off."""
        self._stopping = True
        self._process.kill()
        self._sign.unlink(missing_ok=True)


def stop_all(workers: Sequence[Worker], grace_s: float = STOP_GRACE_S) -> None:
    """End several at the same time, so that their grace periods do not add up."""
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + grace_s
    for worker in workers:
        worker.stop(max(0.0, deadline - time.monotonic()))
