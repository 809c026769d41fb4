"""What an EC2 Auto Scaling policy makes of an alarm: step adjustments and target tracking."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from cis_tasks.errors import PermanentError

AdjustmentType = Literal["ChangeInCapacity", "ExactCapacity", "PercentChangeInCapacity"]
ADJUSTMENT_TYPES = ("ChangeInCapacity", "ExactCapacity", "PercentChangeInCapacity")


@dataclass(frozen=True)
class Bounds:
    """The group's limits.

    Attributes:
        min: fewest instances.
        max: most instances.

    Raises:
        PermanentError: they make no sense.
    """

    min: int
    max: int

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max or self.max < 1:
            raise PermanentError(
                "bounds_unusable",
                f"A group cannot have at least {self.min} and at most {self.max} instances.",
                "Use 0 ≤ min ≤ max and a max of at least 1.",
            )

    def clamp(self, capacity: int) -> int:
        """The allowed capacity that is nearest."""
        return max(self.min, min(self.max, capacity))


@dataclass(frozen=True)
class Step:
    """One step adjustment.

    Attributes:
        lower: where it begins, as metric minus threshold; None is minus infinity.
        upper: where it ends; None is plus infinity.
        change: what is done there: instances, or per cent of them.
    """

    lower: float | None
    upper: float | None
    change: int

    def covers(self, beyond: float) -> bool:
        """Whether a metric that is ``beyond`` the threshold falls into it.

        Above the threshold the lower bound belongs to the step and the upper does not; below it
        is the other way round.
        """
        lower = -math.inf if self.lower is None else self.lower
        upper = math.inf if self.upper is None else self.upper
        return lower <= beyond < upper if beyond >= 0 and upper > 0 else lower < beyond <= upper


@dataclass(frozen=True)
class Steps:
    """A step scaling policy.

    Attributes:
        steps: without gaps or overlaps.
        adjustment: what a step's ``change`` is.
        warmup_s: how long a new instance does not count as there yet.
        magnitude: least change of a percentage.

    Raises:
        PermanentError: the steps overlap, leave gaps, or pull both ways.

    Source: https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-scaling-simple-step.html
    """

    steps: tuple[Step, ...]
    adjustment: AdjustmentType = "ChangeInCapacity"
    warmup_s: float = 0.0
    magnitude: int = 0

    def __post_init__(self) -> None:
        if not self.steps or self.adjustment not in ADJUSTMENT_TYPES or self.warmup_s < 0:
            raise _unusable("has no steps, an unknown kind of adjustment or a negative warm-up")
        ordered = sorted(self.steps, key=lambda s: -math.inf if s.lower is None else s.lower)
        for left, right in itertools.pairwise(ordered):
            if left.upper is None or left.upper != right.lower:
                raise _unusable(f"has a gap or an overlap between {left} and {right}")
        for step in self.steps:
            if step.lower is not None and step.upper is not None and step.lower >= step.upper:
                raise _unusable(f"has an empty step: {step}")

    @classmethod
    def from_aws(cls, policy: Mapping[str, Any]) -> Steps:
        """A policy as DescribePolicies gives it, or as a template's properties say it."""
        return cls(
            steps=tuple(
                Step(
                    lower=step.get("MetricIntervalLowerBound"),
                    upper=step.get("MetricIntervalUpperBound"),
                    change=int(step["ScalingAdjustment"]),
                )
                for step in policy["StepAdjustments"]
            ),
            adjustment=cast("AdjustmentType", policy.get("AdjustmentType", "ChangeInCapacity")),
            warmup_s=float(policy.get("EstimatedInstanceWarmup") or 0),
            magnitude=int(policy.get("MinAdjustmentMagnitude") or 0),
        )

    def change_at(self, beyond: float) -> int | None:
        """The change of the step that a metric ``beyond`` the threshold falls into, or None."""
        return next((step.change for step in self.steps if step.covers(beyond)), None)


def step_capacity(policy: Steps, beyond: float, capacity: int, warming: int = 0) -> int:
    """The capacity that a step policy asks for when its alarm goes off; not yet clamped.

    Instances that are warming up do not count as the base of a growing change, but what it comes
    to is held against all: one alarm over several minutes adds its step once. While any is
    warming up, nothing shrinks.

    Args:
        policy: the steps.
        beyond: the metric's newest datapoint minus the alarm's threshold.
        capacity: instances that the group has, starts or wants.
        warming: how many of them are warming up.
    """
    change = policy.change_at(beyond)
    if change is None:
        return capacity
    ready = max(0, capacity - warming)
    if policy.adjustment == "ExactCapacity":
        wanted = change
    elif policy.adjustment == "PercentChangeInCapacity":
        wanted = ready + _percentage(policy, ready, change)
    else:
        wanted = ready + change
    if wanted > ready:
        return max(wanted, capacity)
    return capacity if warming else max(0, wanted)


def tracking_capacity(metric: float, target: float, capacity: int, warming: int = 0) -> int:
    """The capacity that brings a per-instance metric to its target; not yet clamped.

    Target tracking multiplies what is there by metric ÷ target and rounds up. It cannot leave
    zero: with no instance there is no metric per instance, and zero times anything is zero. While
    instances warm up, nothing shrinks.

    Args:
        metric: newest datapoint, per instance in service.
        target: what it should be.
        capacity: instances that the group has, starts or wants.
        warming: how many of them are warming up.

    Source: https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-scaling-target-tracking.html
    """
    ready = max(0, capacity - warming)
    wanted = math.ceil(ready * metric / target - 1e-9)
    if wanted > ready:
        return max(wanted, capacity)
    return capacity if warming else wanted


def _percentage(policy: Steps, ready: int, change: int) -> int:
    """AWS rounds towards zero, but a change between zero and one becomes one."""
    exact = ready * change / 100
    whole = math.trunc(exact)
    if whole == 0 and exact != 0:
        whole = int(math.copysign(1, exact))
    if abs(whole) < policy.magnitude and change:
        whole = int(math.copysign(policy.magnitude, change))
    return whole


def _unusable(what: str) -> PermanentError:
    return PermanentError(
        "steps_unusable",
        f"A step policy {what}.",
        "Give steps that meet at their bounds, as metric minus threshold.",
    )
