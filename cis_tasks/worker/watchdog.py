"""systemd's notifications, without its library."""

from __future__ import annotations

import os
import socket

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"


def interval_s() -> float | None:
    """How often systemd wants to hear that we live: half of its patience; None if it does not.

    Source: https://www.freedesktop.org/software/systemd/man/latest/sd_watchdog_enabled.html
    """
    given, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not given or (pid and pid != str(os.getpid())):
        return None
    return int(given) / 1e6 / 2


def notify(*states: str) -> bool:
    """Tell systemd; False where nobody listens.

    Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(address)
            sender.sendall("\n".join(states).encode())
        except OSError:
            return False
    return True
