"""What one tick of the publisher did, and its line for CloudWatch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cis_tasks import emf
from scaling.backlog import Reading

EVENTS = ("unread", "unpublished", "scaled", "unscaled", "undecided", "at_maximum", "untold")
"""What may happen within a tick, as the log names it."""


@dataclass(frozen=True)
class Tick:
    """One tick.

    Attributes:
        seconds: how long it took.
        readings: pipeline → what was seen.
        events: name in the log → how often it happened.
    """

    seconds: float
    readings: Mapping[str, Reading]
    events: Mapping[str, int]


Observer = Callable[[Tick], None]


class Lines:
    """An observer that writes a line of embedded metrics for each tick.

    Args:
        namespace: of the metrics.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def __call__(self, tick: Tick) -> None:
        """Write the line."""
        metrics: dict[str, tuple[float | list[float], str]] = {
            "Readings": (len(tick.readings), "Count"),
            "TickSeconds": (round(tick.seconds, 3), "Seconds"),
        }
        for event in EVENTS:
            metrics[emf.camel_case(event)] = (tick.events.get(event, 0), "Count")
        line = emf.line(self._namespace, {"Component": "publisher"}, metrics)
        emf.write(line, sys.stdout)  # Lambda's own
