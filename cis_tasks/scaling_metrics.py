"""The publisher's metrics for Prometheus: what it sees, and how it fares."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cis_tasks.local_port import Page, Server
from scaling.backlog import Reading
from scaling.metrics import values
from scaling.ticks import EVENTS, Tick

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SECONDS = (0.03, 0.1, 0.3, 1, 3, 10, 30)


class Metrics:
    """An observer of ticks. What could not be read is missing, as in CloudWatch."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seen = _Seen()
        self._registry.register(self._seen)
        self._seconds = Histogram(
            "cis_scaling_tick_seconds",
            "How long a tick took.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._events = Counter(
            "cis_scaling_events",
            "What happened in ticks, as the log names it.",
            ["event"],
            registry=self._registry,
        )
        for event in EVENTS:
            self._events.labels(event)

    def __call__(self, tick: Tick) -> None:
        """Note a tick."""
        self._seen.replace(dict(tick.readings))
        self._seconds.observe(tick.seconds)
        for event, count in tick.events.items():
            self._events.labels(event).inc(count)

    def page(self) -> Page:
        """All of it, as Prometheus reads it."""
        return Page(generate_latest(self._registry))


def serve(metrics: Metrics, port: int) -> Server:
    """Serve them at ``/metrics`` of 127.0.0.1.

    Raises:
        OSError: the port is taken.
    """
    return Server({"/metrics": metrics.page}, port)


class _Seen(Collector):
    """The newest readings."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: dict[str, Reading] = {}

    def replace(self, readings: dict[str, Reading]) -> None:
        with self._lock:
            self._readings = readings

    def collect(self) -> Iterator[Metric]:
        """A gauge for each metric that CloudWatch gets."""
        with self._lock:
            readings = dict(self._readings)
        families: dict[str, GaugeMetricFamily] = {}
        for pipeline, reading in readings.items():
            for name, (value, _) in values(reading).items():
                known = f"cis_scaling_{_snake_case(name)}"
                if known not in families:
                    families[known] = GaugeMetricFamily(known, name, labels=["pipeline"])
                families[known].add_metric([pipeline], value)
        yield from families.values()


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
