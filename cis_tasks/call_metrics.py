"""A process's calls to AWS as metrics: for Prometheus, and as lines for CloudWatch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from cis_tasks import emf
from cis_tasks.broker import calls

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

EVERY_S = 60.0


class Calls(Collector):
    """Read when they are asked for."""

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        made = CounterMetricFamily("cis_aws_calls", "Calls of this process.", labels=["call"])
        for call, number in calls.made().items():
            made.add_metric([call], number)
        yield made
        failed = CounterMetricFamily("cis_aws_failures", "Those that failed.", labels=["call"])
        for call, number in calls.failed().items():
            failed.add_metric([call], number)
        yield failed


class CallLines:
    """Writes a line per API now and then: how many calls since the last, and how many failed.

    Args:
        namespace: of the metrics.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._told: dict[str, int] = {}
        self._told_failed: dict[str, int] = {}
        self._due_s = time.monotonic() + EVERY_S

    def __call__(self) -> None:
        """Write them, where that is due."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + EVERY_S
        self.write()

    def write(self) -> None:
        """Write them now."""
        made, failed = calls.made(), calls.failed()
        for call, number in made.items():
            more = number - self._told.get(call, 0)
            if not more:
                continue
            metrics = {"AwsCalls": (float(more), "Count")}
            more_failed = failed.get(call, 0) - self._told_failed.get(call, 0)
            if more_failed:
                metrics["AwsFailures"] = (float(more_failed), "Count")
            emf.write(emf.line(self._namespace, {"Call": call}, metrics))
        self._told, self._told_failed = made, failed
