"""Message groups within one worker: one job of a group at a time, in order.

SQS gives no message of a group to anybody while another is in flight, but one receive may bring
several of them. A pool of more than one would run these side by side.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Mapping
from typing import Any

Message = Mapping[str, Any]


class Groups:
    """Which groups have a job under way, and what waits behind it. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._behind: dict[Hashable, deque[Message]] = {}
        self._groups: dict[str, Hashable] = {}

    def enter(self, group: Hashable, message: Message) -> bool:
        """Whether a message may go; else it waits until the one before it leaves."""
        with self._lock:
            if group in self._behind:
                self._behind[group].append(message)
                return False
            self._behind[group] = deque()
            self._groups[message["ReceiptHandle"]] = group
            return True

    def leave(self, handle: str) -> list[Message]:
        """Note that a message is settled.

        Returns:
            What waited behind it, in order, to be handed over again or given back.
        """
        with self._lock:
            group = self._groups.pop(handle, None)
            return list(self._behind.pop(group, ()))
