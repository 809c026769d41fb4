"""When a CloudWatch alarm goes off: M of N datapoints, and what missing ones count as."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, cast

from cis_tasks.errors import PermanentError

Missing = Literal["missing", "ignore", "breaching", "notBreaching"]
Statistic = Literal["Average", "Maximum", "Minimum", "Sum", "SampleCount"]

COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
PERIODS_BEYOND = 2
"""How many periods before the N an alarm looks at where some of the N are missing.

AWS does not give the number; its examples show five datapoints for an N of three.
"""

STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "Average": lambda values: math.fsum(values) / len(values),
    "Maximum": max,
    "Minimum": min,
    "Sum": math.fsum,
    "SampleCount": len,
}


class State(StrEnum):
    """An alarm's state, as CloudWatch writes it."""

    OK = "OK"
    ALARM = "ALARM"
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"


@dataclass(frozen=True)
class Alarm:
    """What an alarm watches for, in one metric.

    Attributes:
        comparison: CloudWatch's name of the comparison of a datapoint with ``threshold``.
        threshold: in the metric's unit.
        period_s: length of the period that makes one datapoint.
        evaluation_periods: N, the newest periods that are looked at.
        datapoints_to_alarm: M, how many of them must breach.
        missing: what a period without data counts as.
        statistic: makes one datapoint of a period's values.

    Raises:
        PermanentError: its numbers make no sense.
    """

    comparison: str
    threshold: float
    period_s: int
    evaluation_periods: int = 1
    datapoints_to_alarm: int = 1
    missing: Missing = "missing"
    statistic: Statistic = "Average"

    def __post_init__(self) -> None:
        if self.comparison not in COMPARISONS:
            raise _unusable(f"it compares by {self.comparison!r}", ", ".join(COMPARISONS))
        if not math.isfinite(self.threshold):
            raise _unusable(f"its threshold is {self.threshold}", "a finite number")
        if self.period_s not in (10, 20, 30) and (self.period_s < 60 or self.period_s % 60):
            raise _unusable(f"its period is {self.period_s} s", "10, 20, 30 or a multiple of 60 s")
        if not 1 <= self.datapoints_to_alarm <= self.evaluation_periods:
            of = f"{self.datapoints_to_alarm} of {self.evaluation_periods}"
            raise _unusable(f"it waits for {of} datapoints", "M of N with 1 ≤ M ≤ N")

    @classmethod
    def from_aws(cls, description: Mapping[str, Any]) -> Alarm:
        """An alarm as DescribeAlarms gives it, or as a template's properties say it."""
        periods = int(description["EvaluationPeriods"])
        return cls(
            comparison=str(description["ComparisonOperator"]),
            threshold=float(description["Threshold"]),
            period_s=int(description["Period"]),
            evaluation_periods=periods,
            datapoints_to_alarm=int(description.get("DatapointsToAlarm") or periods),
            missing=cast("Missing", description.get("TreatMissingData") or "missing"),
            statistic=cast("Statistic", description.get("Statistic") or "Average"),
        )

    def to_aws(self) -> dict[str, Any]:
        """What PutMetricAlarm and a template call these numbers."""
        return {
            "ComparisonOperator": self.comparison,
            "Threshold": self.threshold,
            "Period": self.period_s,
            "EvaluationPeriods": self.evaluation_periods,
            "DatapointsToAlarm": self.datapoints_to_alarm,
            "TreatMissingData": self.missing,
            "Statistic": self.statistic,
        }

    @property
    def range_periods(self) -> int:
        """How many periods' datapoints `evaluate` wants to see."""
        return self.evaluation_periods + PERIODS_BEYOND

    def breaches(self, value: float) -> bool:
        """Whether one datapoint is beyond the threshold."""
        return COMPARISONS[self.comparison](value, self.threshold)

    def datapoint(self, values: Sequence[float]) -> float | None:
        """One period's datapoint of the values published in it; None where there is none."""
        return STATISTICS[self.statistic](values) if values else None


def evaluate(alarm: Alarm, datapoints: Sequence[float | None], before: State) -> State:
    """The state that an alarm takes.

    Where the evaluation range holds N datapoints, the newest N decide and older periods stand in
    for missing ones. Where it holds fewer, the gaps are filled as the alarm says. An alarm that
    treats missing data as missing does not go off early: with too few breaching datapoints it
    alarms only if all that are there breach and the oldest is at least M periods old.

    Args:
        alarm: what to watch for.
        datapoints: one per period, oldest first, `Alarm.range_periods` of them; None is missing.
        before: the state that the alarm is in.

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
    """
    newest = list(datapoints)[-alarm.range_periods :]
    real = [value for value in newest if value is not None]
    if len(real) >= alarm.evaluation_periods:
        recent = real[-alarm.evaluation_periods :]
        return _state(sum(map(alarm.breaches, recent)) >= alarm.datapoints_to_alarm)
    breaching = sum(map(alarm.breaches, real))
    if alarm.missing in ("breaching", "notBreaching"):
        filled = alarm.evaluation_periods - len(real)
        bad = breaching + (filled if alarm.missing == "breaching" else 0)
        return _state(bad >= alarm.datapoints_to_alarm)
    if not real:
        return State.INSUFFICIENT_DATA if alarm.missing == "missing" else before
    if breaching >= alarm.datapoints_to_alarm:
        return State.ALARM
    if breaching < len(real):
        return State.OK
    return _all_that_is_there_breaches(alarm, newest, before)


def _all_that_is_there_breaches(
    alarm: Alarm, newest: Sequence[float | None], before: State
) -> State:
    if alarm.missing == "ignore":
        return before
    oldest = next(age for age in range(len(newest), 0, -1) if newest[-age] is not None)
    return State.ALARM if oldest >= alarm.datapoints_to_alarm else before


def _state(alarming: bool) -> State:
    return State.ALARM if alarming else State.OK


def _unusable(what: str, instead: str) -> PermanentError:
    return PermanentError("alarm_unusable", f"An alarm cannot work: {what}.", f"Use {instead}.")
