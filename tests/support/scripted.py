"""``celery -A support.scripted``: the real app, tasks and broker, with the model of `script`."""

from __future__ import annotations

from cis_tasks.app import app
from cis_tasks.pipelines import Pipeline
from support.script import run

__all__ = ["app"]

Pipeline.load = lambda self: run  # type: ignore[method-assign, assignment]
