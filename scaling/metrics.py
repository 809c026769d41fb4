"""CloudWatch metrics made of readings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from scaling.backlog import Reading

NAMESPACE = "CIS/Scaling"
MAX_DATUMS = 1_000  # CloudWatch's limit for one PutMetricData


def datums(
    reading: Reading, queue: str, group: str, *, high_resolution: bool = False
) -> list[dict[str, Any]]:
    """The metrics of a reading, as PutMetricData takes them.

    What nobody knows is left out: a metric that is missing can be told from one that is zero.

    Args:
        reading: what was seen.
        queue: value of the dimension ``Queue``.
        group: value of the dimension ``Group``.
        high_resolution: keep each second apart, for alarms of 10 s; CloudWatch charges more.
    """
    at = datetime.fromtimestamp(reading.time_s, UTC)
    dimensions = [{"Name": "Queue", "Value": queue}, {"Name": "Group", "Value": group}]
    return [
        {
            "MetricName": name,
            "Dimensions": dimensions,
            "Timestamp": at,
            "Value": float(value),
            "Unit": unit,
            "StorageResolution": 1 if high_resolution else 60,
        }
        for name, (value, unit) in values(reading).items()
    ]


def values(reading: Reading) -> dict[str, tuple[float, str]]:
    """What a reading says, and CloudWatch's unit of it; without what nobody knows."""
    found: dict[str, tuple[float | None, str]] = {
        "BacklogPerInstance": (reading.backlog_per_instance, "Count"),
        "OutstandingPerInstance": (reading.outstanding_per_instance, "Count"),
        "EstimatedDrainSeconds": (reading.drain_s, "Seconds"),
        "OldestMessageAge": (reading.oldest_s, "Seconds"),
        "HasBacklogWithoutCapacity": (float(reading.without_capacity), "None"),
        "Visible": (reading.visible, "Count"),
        "InFlight": (reading.in_flight, "Count"),
        "DesiredInstances": (reading.desired, "Count"),
        "InServiceInstances": (reading.in_service, "Count"),
        "PendingInstances": (reading.pending, "Count"),
        "AtMaximum": (float(at_maximum(reading)), "None"),
    }
    return {name: (value, unit) for name, (value, unit) in found.items() if value is not None}


def at_maximum(reading: Reading) -> bool:
    """Whether jobs wait though the group may not grow any more."""
    return reading.visible > 0 and reading.desired >= reading.max


def put(cloudwatch: Any, data: Iterable[dict[str, Any]]) -> int:
    """Publish metrics in as few calls as may be; gives the number of calls.

    Raises:
        botocore.exceptions.ClientError: CloudWatch refused them.
    """
    calls = 0
    for batch in _batches(list(data)):
        cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=batch)
        calls += 1
    return calls


def _batches(data: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(data), MAX_DATUMS):
        yield list(data[start : start + MAX_DATUMS])
