"""ministack as the laptop cloud runs it: ``python -m cis_tasks.local.ministack INVOCATIONS``.

By itself it starts a process for each invocation of a Lambda function that is under way, a
hundred Pythons for a hundred uploads at once; and at its account's limit of concurrency it drops
an event after two retries, where AWS keeps it for hours. Here invocations wait for their turn.
"""

# ruff: noqa: SLF001  it has no other door for this; pyproject.toml names its exact version

from __future__ import annotations

import sys
import threading
from typing import Any

from ministack import app  # type: ignore[import-untyped]
from ministack.services import lambda_svc  # type: ignore[import-untyped]


def take_turns(invocations: int) -> None:
    """Let invocations wait while so many are under way."""
    free = threading.BoundedSemaphore(invocations)
    acquire, release = lambda_svc._acquire_execution_slot, lambda_svc._release_execution_slot

    def acquire_in_turn(*arguments: Any) -> Any:
        free.acquire()
        slot, reached = acquire(*arguments)
        if slot is None:
            free.release()
        return slot, reached

    def release_turn(slot: Any) -> None:
        release(slot)
        if slot is not None:
            free.release()

    lambda_svc._acquire_execution_slot = acquire_in_turn
    lambda_svc._release_execution_slot = release_turn


if __name__ == "__main__":
    take_turns(int(sys.argv.pop()))
    app.main()
