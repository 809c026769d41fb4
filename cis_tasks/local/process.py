"""One process of the laptop cloud: in a group of its own, logged, and gone with its starter."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cis_tasks.local import tether

LOG_TAIL_LINES = 30


class Process:
    """A running command.

    It leads a process group, so that Ctrl-C in a terminal reaches only whoever started it and
    its own children can be ended with it. If the starter dies, the group is ended too.

    Attributes:
        log: file with everything that it wrote to standard output and error; that of the run
            before it lies beside it, with ``.1`` at its end.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path | None = None
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        with log.open("ab") as out:
            self._popen = subprocess.Popen(  # noqa: S603  the command comes from this package
                [sys.executable, "-I", "-S", tether.__file__, *command],
                stdin=subprocess.PIPE,  # the tether: see tether.py
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number where a signal ended it."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.exit_code is None

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False where it still runs after ``timeout_s``."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); returns at once. Its children are its own affair."""
        self._popen.terminate()

    def stop(self, grace_s: float = 10.0) -> None:
        """End it: SIGTERM, then SIGKILL to what is left of its group after ``grace_s``."""
        self.terminate()
        self.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group, as when a machine is switched off."""
        tether_end = self._popen.stdin
        if tether_end is None or tether_end.closed:
            return  # killed before: the watcher is gone, and the group's id is free for others
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        tether_end.close()

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines that it wrote."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(it wrote nothing)"


def stop_all(processes: Sequence[Process], grace_s: float = 10.0) -> None:
    """End several at the same time, so that their grace periods do not add up."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.stop(grace_s)
