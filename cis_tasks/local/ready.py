"""Tells whoever started a worker that it takes jobs; workers load it with ``--include``.

A file says so whatever the log's level, format and language are.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery.signals import worker_ready

VARIABLE = "CIS_READY_FILE"


def announce(**_: object) -> None:
    """Make the file that the environment names."""
    named = os.environ.get(VARIABLE)
    if named:
        Path(named).touch()


worker_ready.connect(announce, weak=False)
