"""Which process a queue belongs to, written into the queue's tags, and whether it still lives."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

INSTALLATION_TAG = "cis-tasks:installation"
HOST_TAG = "cis-tasks:host"
PID_TAG = "cis-tasks:pid"
STARTED_TAG = "cis-tasks:started"
SEEN_TAG = "cis-tasks:seen"
SUBSCRIPTION_TAG = "cis-tasks:subscription"

SEEN_EVERY_S = 1800.0  # how often an owner says in the tags that it lives: two calls an hour
SILENT_S = 5400.0  # an owner elsewhere that has been silent for this long is dead


@dataclass(frozen=True)
class Owner:
    """One process on one host.

    Attributes:
        host: the machine since its last boot and the pid namespace on it, as one text: only
            there does ``pid`` mean anything.
        pid: its process id.
        started: when it started, by the host's own clock, so that a reused pid is told apart.
        seen_s: when it last said that it lives, in seconds since 1970.
    """

    host: str
    pid: int
    started: str
    seen_s: float

    @classmethod
    def this(cls) -> Owner:
        """The calling process."""
        return cls(_host(), os.getpid(), _started(os.getpid()) or "", time.time())

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Owner | None:
        """The owner that a queue's tags name; None where they name none."""
        try:
            pid, seen_s = int(tags[PID_TAG]), float(tags[SEEN_TAG])
            return cls(tags[HOST_TAG], pid, tags[STARTED_TAG], seen_s)
        except (KeyError, ValueError):
            return None

    def tags(self, installation: str) -> dict[str, str]:
        """The tags of a queue that it creates for ``installation``."""
        return {
            INSTALLATION_TAG: installation,
            HOST_TAG: self.host,
            PID_TAG: str(self.pid),
            STARTED_TAG: self.started,
            **seen(),
        }

    def gone(self) -> bool:
        """Whether the process has ended: by its pid here, by its silence on another host."""
        if self.host != _host():
            return time.time() - self.seen_s > SILENT_S
        started = _started(self.pid)
        return started is None or self.started not in {started, ""}


def seen() -> dict[str, str]:
    """The tag that says: alive now."""
    return {SEEN_TAG: str(int(time.time()))}


def unique() -> str:
    """A name part that no other process, and none before, has used."""
    return uuid4().hex[:16]


def _host() -> str:
    """Text of letters, digits and ``:./-_`` only, as tags allow."""
    parts = [platform.node()]
    for read in (_boot, _pid_namespace):
        try:
            parts.append(read())
        except OSError:  # not Linux: the host's name has to do
            parts.append("-")
    return "/".join(parts)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _started(pid: int) -> str | None:
    """A mark of the process's start; "" where the system has none, None where it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _started_elsewhere(pid)
    return None if state in {"Z", "X"} else fields[18]  # field 22 of proc(5): starttime


def _started_elsewhere(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
