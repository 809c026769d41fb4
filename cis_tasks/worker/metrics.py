"""A worker's metrics: for Prometheus to fetch, and as lines for CloudWatch.

No metric has the name of a session in it: labels are pipelines, outcomes and API calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from cis_tasks import emf
from cis_tasks.call_metrics import CallLines, Calls
from cis_tasks.pipelines import PIPELINES
from cis_tasks.worker import probes
from cis_tasks.worker.figures import Figures, figures
from cis_tasks.worker.gpus import Gpu
from cis_tasks.worker.tally import Ended

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OF_A_GPU: tuple[tuple[str, str, Callable[[Gpu], float]], ...] = (
    ("utilization", "Share of time in which any kernel ran, 0 to 1.", lambda gpu: gpu.utilization),
    ("memory_used_bytes", "Memory in use.", lambda gpu: gpu.memory_used_bytes),
    ("memory_bytes", "Memory that there is.", lambda gpu: gpu.memory_bytes),
    ("power_watts", "Power drawn.", lambda gpu: gpu.power_w),
    ("temperature_celsius", "Temperature of the chip.", lambda gpu: gpu.temperature_c),
)

registry = CollectorRegistry()
jobs = Counter("cis_jobs", "Attempts that ended.", ["pipeline", "outcome"], registry=registry)
seconds = Histogram(
    "cis_job_seconds", "How long they ran.", ["pipeline"], buckets=SECONDS, registry=registry
)
started = Gauge("cis_started_time_seconds", "When this worker started.", registry=registry)
started.set(time.time())


class Vitals(Collector):
    """What is read when it is asked for: the probes."""

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        well = GaugeMetricFamily("cis_probe_ok", "1 where all is well.", labels=["probe"])
        health = probes.examine()
        for name, reading in health.readings.items():
            well.add_metric([name], float(reading.ok))
        yield well
        yield GaugeMetricFamily("cis_live", "1 where no restart is needed.", float(health.live))
        yield GaugeMetricFamily("cis_ready", "1 where it can take jobs.", float(health.ready))


class Images(Collector):
    """What a process has classified, and the machine's GPUs, read when it is asked for."""

    def __init__(self, source: Figures = figures) -> None:
        """Read from ``source``."""
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        seen = self._source.snapshot()
        yield CounterMetricFamily("cis_image_images", "Images classified.", seen.images)
        yield CounterMetricFamily(
            "cis_image_failures", "Jobs without an answer because of their input.", seen.failures
        )
        yield GaugeMetricFamily(
            "cis_image_images_per_second", "In the last minute.", seen.images_per_s
        )
        yield GaugeMetricFamily(
            "cis_image_busy_devices", "Devices that run a batch, mean of a minute.", seen.busy
        )
        yield _sizes(seen.batches)
        yield from _gpus(seen.gpus)


def _sizes(batches: dict[int, int]) -> Metric:
    """How many batches had how many items, as Prometheus's cumulative buckets."""
    upto = [
        (f"{limit:.1f}", float(sum(n for size, n in batches.items() if size <= limit)))
        for limit in SIZES
    ]
    return HistogramMetricFamily(
        "cis_batch_size",
        "Items that a device was given at once.",
        buckets=[*upto, ("+Inf", float(sum(batches.values())))],
        sum_value=float(sum(size * n for size, n in batches.items())),
    )


def _gpus(gpus: tuple[Gpu, ...]) -> Iterator[Metric]:
    for name, what, read in OF_A_GPU if gpus else ():
        family = GaugeMetricFamily(f"cis_gpu_{name}", what, labels=["gpu"])
        for gpu in gpus:
            family.add_metric([str(gpu.index)], read(gpu))
        yield family


registry.register(Vitals())
registry.register(Calls())
registry.register(Images())


def page() -> bytes:
    """All of them, as Prometheus reads them."""
    return generate_latest(registry)


def count(ended: Ended) -> None:
    """Count an attempt; an observer of `cis_tasks.worker.tally`."""
    pipeline = pipeline_of(ended.task)
    jobs.labels(pipeline, ended.outcome).inc()
    seconds.labels(pipeline).observe(ended.seconds)


def pipeline_of(task: str) -> str:
    """The pipeline of a task; ``other`` where it is none of ours."""
    return next((p.name for p in PIPELINES.values() if p.task == task), "other")


class Lines:
    """An observer that writes a line for each attempt, and one now and then of the AWS calls."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self.tell_calls = CallLines(namespace)

    def __call__(self, ended: Ended) -> None:
        """Write the line of an attempt."""
        failed = ended.outcome not in {"succeeded", "retried", "ignored"}
        metrics = {
            "Jobs": (1.0, "Count"),
            "Failures": (float(failed), "Count"),
            "Seconds": (round(ended.seconds, 3), "Seconds"),
        }
        pipeline = pipeline_of(ended.task)
        about = {"job_id": ended.task_id, "outcome": ended.outcome}
        emf.write(emf.line(self._namespace, {"Pipeline": pipeline}, metrics, about))
