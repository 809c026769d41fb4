"""Metrics as lines of the log: CloudWatch makes metrics of them without a call of ours.

Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import TextIO

_lock = threading.Lock()


def line(
    namespace: str,
    dimensions: Mapping[str, str],
    metrics: Mapping[str, tuple[float | list[float], str]],
    properties: Mapping[str, str] | None = None,
) -> str:
    """One line.

    Args:
        namespace: of the metrics.
        dimensions: name → value; each set of values is a metric that is paid for.
        metrics: name → value, or up to 100 of them, and CloudWatch's unit.
        properties: further fields, to search the log by.
    """
    return json.dumps(
        {
            "_aws": {
                "Timestamp": int(time.time() * 1000),
                "CloudWatchMetrics": [
                    {
                        "Namespace": namespace,
                        "Dimensions": [list(dimensions)],
                        "Metrics": [
                            {"Name": name, "Unit": unit} for name, (_, unit) in metrics.items()
                        ],
                    }
                ],
            },
            **(properties or {}),
            **dimensions,
            **{name: value for name, (value, _) in metrics.items()},
        }
    )


def write(text: str, out: TextIO | None = None) -> None:
    """Write a line to standard output, past Celery, which makes log records of what is printed."""
    stream = out or sys.__stdout__
    if stream is None:
        return
    with _lock:
        stream.write(text + "\n")
        stream.flush()


def camel_case(name: str) -> str:
    """A name as CloudWatch's are written: ``at_maximum`` is ``AtMaximum``."""
    return "".join(word.capitalize() for word in name.split("_"))
