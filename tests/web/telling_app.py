"""``celery -A telling_app``: the real app, tasks and broker, with `telling_model`."""

from __future__ import annotations

from telling_model import run

from cis_tasks.app import app
from cis_tasks.pipelines import Pipeline

__all__ = ["app"]

Pipeline.load = lambda self: run  # type: ignore[method-assign, assignment]
