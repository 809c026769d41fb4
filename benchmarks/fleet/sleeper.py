"""``celery -A sleeper``: the real app with a model that sleeps as long as its job says."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cis_tasks.app import app
from cis_tasks.jobs import Outcome, Progress, no_progress
from cis_tasks.pipelines import Pipeline

__all__ = ["app"]


def run(
    inputs: Mapping[str, Path],  # noqa: ARG001  what every model is given
    out: Path,  # noqa: ARG001
    params: Mapping[str, Any],
    progress: Progress = no_progress,  # noqa: ARG001
) -> Outcome:
    """Be busy."""
    time.sleep(float(params["sleep_s"]))
    return Outcome({}, [], "sleeper", "1")


Pipeline.load = lambda self: run  # type: ignore[method-assign, assignment]  # noqa: ARG005
