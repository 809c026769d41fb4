"""The pages of a worker's local port: is it live, is it ready, its metrics."""

from __future__ import annotations

import json
from functools import partial

from cis_tasks.local_port import Page, Pages
from cis_tasks.worker import probes


def pages() -> Pages:
    """The pages of this process."""
    return {
        "/livez": partial(_health, "live"),
        "/readyz": partial(_health, "ready"),
        "/metrics": _metrics,
    }


def _health(asked: str) -> Page:
    health = probes.examine()
    told = {
        "live": health.live,
        "ready": health.ready,
        "probes": {name: vars(each) for name, each in health.readings.items()},
    }
    return Page(json.dumps(told).encode(), "application/json", 200 if told[asked] else 503)


def _metrics() -> Page:
    from cis_tasks.worker import metrics  # noqa: PLC0415  prometheus-client is optional

    return Page(metrics.page())
