"""Following a job to its end, on the terminal."""

from __future__ import annotations

import time

from cis_tasks.console import stages
from cis_tasks.lookup import Whereabouts, locate

POLL_S = 0.5
WAITING = {"unknown": "wait", "retrying": "retry"}


def follow(job_id: str, timeout_s: float | None = None, *, quiet: bool = False) -> Whereabouts:
    """Show a job's stages until it has ended or the time is over; where it is then.

    Raises:
        TransientError: S3 did not answer.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with stages(quiet=quiet) as bars:
        while True:
            where = locate(job_id)
            if where.ended:
                bars.fill()
                return where
            bars(WAITING.get(where.phase) or where.stage, where.fraction)
            if deadline is not None and time.monotonic() > deadline:
                return where
            time.sleep(POLL_S)
