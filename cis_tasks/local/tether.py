"""Run a command that cannot outlive whoever started it; a script for `process.Process`.

``python -I -S tether.py COMMAND…`` becomes the command itself. Beside it, in the same process
group, stays a small watcher that reads standard input. When that ends, because the starter
closed it or died in whatever way, SIGKILL included, the watcher ends the group.

Linux could do the like with ``PR_SET_PDEATHSIG``, but that fires when the starting *thread*
ends, does not reach the command's own children, and exists nowhere else.
"""

from __future__ import annotations

import os
import signal
import sys
import time

GRACE_S = 3.0


def main() -> None:
    """Leave a watcher behind and become the command."""
    if os.fork() == 0:
        if os.fork() == 0:  # forked twice, so that it is no child of the command
            watch()
        os._exit(0)
    os.wait()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    try:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  becoming the command is the point
    except OSError as error:
        sys.exit(f"cannot run {sys.argv[1]}: {error.strerror}")


def watch() -> None:
    """Wait for the end of standard input, then end the process group, this process included.

    As long as the watcher is a member, the group's id cannot pass to other processes.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while os.read(0, 1):
        pass
    group = os.getpgrp()
    if alive(group):
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while alive(group) and time.monotonic() < deadline:
            time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether there is a process ``pid``."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
