"""The policies that AWS itself runs, by CloudWatch alarms: ``step`` and ``target``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from scaling.alarms import Alarm, State, evaluate
from scaling.backlog import Reading
from scaling.policy import Decision, Limits, positive, unusable
from scaling.steps import Bounds, Step, Steps, step_capacity, tracking_capacity

Metric = Callable[[Reading], float]

METRICS: Mapping[str, Metric] = {
    "BacklogPerInstance": lambda reading: reading.backlog_per_instance,
    "OutstandingPerInstance": lambda reading: reading.outstanding_per_instance,
    "HasBacklogWithoutCapacity": lambda reading: float(reading.without_capacity),
}
EVALUATED_S = 60.0
"""While an alarm stays on, Auto Scaling is told again each minute."""

TRACKING_IN_RATIO = 0.9
"""A target-tracking policy's low alarm stands at this share of the target."""


@dataclass(frozen=True)
class Watch:
    """An alarm on a metric, and what it does.

    Attributes:
        name: what the alarm is called.
        metric: name of the metric.
        alarm: when it goes off.
    """

    name: str
    metric: str
    alarm: Alarm

    def look(self, readings: Sequence[Reading], before: State, delay_s: float) -> Look:
        """The alarm's state now, from the datapoints that CloudWatch has by now."""
        points = datapoints(self.alarm, METRICS[self.metric], readings, delay_s)
        state = evaluate(self.alarm, points, before)
        newest = next((value for value in reversed(points) if value is not None), None)
        return Look(self, state, newest)


@dataclass(frozen=True)
class Look:
    """An alarm as it is now.

    Attributes:
        watch: which alarm.
        state: its state.
        value: its newest datapoint.
    """

    watch: Watch
    state: State
    value: float | None

    @property
    def on(self) -> bool:
        """Whether it has gone off, and on what."""
        return self.state is State.ALARM and self.value is not None

    def __str__(self) -> str:
        value = "no data" if self.value is None else f"{self.value:.3g}"
        return f"{self.watch.metric} {value}"


def datapoints(
    alarm: Alarm, metric: Metric, readings: Sequence[Reading], delay_s: float = 0.0
) -> list[float | None]:
    """What CloudWatch would hold of a metric: one datapoint per full period, oldest first.

    A clock that was set back makes readings from the future; they do not count.

    Args:
        alarm: gives period, statistic and number of periods.
        metric: what was published of each reading.
        readings: oldest first, the newest is now.
        delay_s: how late a reading comes to be seen.
    """
    period_s = alarm.period_s
    end = math.floor((readings[-1].time_s - delay_s) / period_s)
    values: dict[int, list[float]] = {}
    for reading in reversed(readings):
        index = math.floor(reading.time_s / period_s)
        if index < end - alarm.range_periods:
            break
        if index < end:
            values.setdefault(index, []).append(metric(reading))
    return [alarm.datapoint(values.get(i, [])) for i in range(end - alarm.range_periods, end)]


def _look_all(
    watches: Sequence[Watch],
    readings: Sequence[Reading],
    last: Decision | None,
    delay_s: float,
) -> list[Look]:
    before = last.alarms if last else {}
    return [
        watch.look(readings, before.get(watch.name, State.INSUFFICIENT_DATA), delay_s)
        for watch in watches
    ]


def capacity(now: Reading) -> int:
    """Instances that a change starts from: what is wanted, or protected ones beyond that."""
    return max(now.desired, now.in_service + now.pending)


@dataclass(frozen=True)
class StepPolicy:
    """Backlog per instance, one alarm out and one in: the original design.

    One instance more while as many jobs wait as there are instances; one less while neither a
    job waits nor one runs, so work in flight holds scale-in back.

    Attributes:
        limits: fewest and most instances, scheduled minimums.
        out: the alarm that adds.
        out_steps: how many.
        inward: the alarm that removes.
        in_steps: how many.
        every_s: how often an alarm that stays on acts.
        delay_s: how late CloudWatch sees a reading.
    """

    limits: Limits
    out: Watch
    out_steps: Steps
    inward: Watch
    in_steps: Steps
    every_s: float = EVALUATED_S
    delay_s: float = 0.0

    name: ClassVar[str] = "step"
    drains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(every_s=self.every_s)
        if self.out.metric not in METRICS or self.inward.metric not in METRICS:
            raise unusable(
                f"alarms on {self.out.metric} and {self.inward.metric}",
                f"Use {', '.join(METRICS)}.",
            )

    @property
    def window_s(self) -> float:
        """How far back its alarms look."""
        return _window_s([self.out, self.inward], self.delay_s)

    @property
    def watches(self) -> tuple[Watch, ...]:
        """Its alarms."""
        return (self.out, self.inward)

    def decide(self, readings: Sequence[Reading], last: Decision | None = None) -> Decision:
        """Decide as Auto Scaling does when its alarms act."""
        now = readings[-1]
        out, inward = looks = _look_all(self.watches, readings, last, self.delay_s)
        wanted, reason = now.desired, f"neither alarm is on ({out}, {inward})"
        for look, steps in ((inward, self.in_steps), (out, self.out_steps)):  # out wins
            if look.on and look.value is not None:
                beyond = look.value - look.watch.alarm.threshold
                asked = step_capacity(steps, beyond, capacity(now), now.pending)
                wanted = asked
                reason = f"{look.watch.name} is on ({look}): {_change(now.desired, asked, now)}"
        states = {look.watch.name: look.state for look in looks}
        return self.limits.apply(Decision(self.name, now.time_s, wanted, wanted, reason, states))


@dataclass(frozen=True)
class TargetPolicy:
    """AWS's target tracking on the acceptable backlog, with a step alarm from zero.

    Attributes:
        limits: fewest and most instances, scheduled minimums.
        target: acceptable backlog per instance: acceptable wait ÷ service time.
        high: target tracking's alarm that adds.
        low: target tracking's alarm that removes.
        zero: the alarm that starts the first instance.
        zero_steps: how many it starts.
        warmup_s: how long a new instance does not count.
        every_s: how often an alarm that stays on acts.
        delay_s: how late CloudWatch sees a reading.
    """

    limits: Limits
    target: float
    high: Watch
    low: Watch
    zero: Watch
    zero_steps: Steps
    warmup_s: float = 0.0
    every_s: float = EVALUATED_S
    delay_s: float = 0.0

    name: ClassVar[str] = "target"
    drains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(target=self.target, every_s=self.every_s)

    @property
    def window_s(self) -> float:
        """How far back its alarms look."""
        return _window_s(self.watches, self.delay_s)

    @property
    def watches(self) -> tuple[Watch, ...]:
        """Its alarms."""
        return (self.high, self.low, self.zero)

    def decide(self, readings: Sequence[Reading], last: Decision | None = None) -> Decision:
        """Decide as Auto Scaling does when its alarms act."""
        now = readings[-1]
        high, low, zero = looks = _look_all(self.watches, readings, last, self.delay_s)
        wanted, reason = now.desired, f"on target ({high}, target {self.target:g})"
        if zero.on and now.without_capacity:
            wanted = step_capacity(self.zero_steps, 0.0, capacity(now), now.pending)
            reason = f"{zero.watch.name} is on: {_change(now.desired, wanted, now)}"
        elif (acting := high if high.on else low).on and acting.value is not None:
            wanted = tracking_capacity(acting.value, self.target, capacity(now), now.pending)
            reason = f"{acting}, target {self.target:g}: {_change(now.desired, wanted, now)}"
        states = {look.watch.name: look.state for look in looks}
        return self.limits.apply(Decision(self.name, now.time_s, wanted, wanted, reason, states))


def step_policy(
    limits: Limits | None = None,
    *,
    out_threshold: float = 1.0,
    in_threshold: float = 0.0,
    change: int = 1,
    period_s: int = 60,
    warmup_s: float = 60.0,
    every_s: float = EVALUATED_S,
    delay_s: float = 0.0,
) -> StepPolicy:
    """The original policy; its defaults are the numbers of the template.

    Raises:
        PermanentError: the numbers make no sense.
    """
    positive(out_threshold=out_threshold, change=change)
    if not 0 <= in_threshold < out_threshold:
        raise unusable(
            f"scale-in at {in_threshold:g} and scale-out at {out_threshold:g}",
            "The threshold to remove must be below the one to add, or they undo each other.",
        )
    return StepPolicy(
        limits=limits or Limits(Bounds(1, 20)),
        out=Watch(
            "BacklogHigh",
            "BacklogPerInstance",
            Alarm("GreaterThanOrEqualToThreshold", out_threshold, period_s, missing="notBreaching"),
        ),
        out_steps=Steps((Step(0, None, change),), warmup_s=warmup_s),
        inward=Watch(
            "OutstandingLow",
            "OutstandingPerInstance",
            Alarm(
                "LessThanOrEqualToThreshold", in_threshold, period_s, 2, 2, missing="notBreaching"
            ),
        ),
        in_steps=Steps((Step(None, 0, -change),)),
        every_s=every_s,
        delay_s=delay_s,
    )


def target_policy(
    limits: Limits | None = None,
    *,
    target: float = 3.0,
    warmup_s: float = 60.0,
    every_s: float = EVALUATED_S,
    delay_s: float = 0.0,
) -> TargetPolicy:
    """AWS's target tracking with the alarms that it makes; defaults are those of the template.

    Its high alarm wants three minutes above the target, its low alarm a quarter of an hour below
    nine tenths of it.

    Raises:
        PermanentError: the numbers make no sense.
    """
    positive(target=target)
    metric = "BacklogPerInstance"
    low = Alarm("LessThanThreshold", target * TRACKING_IN_RATIO, 60, 15, 15)
    return TargetPolicy(
        limits=limits or Limits(Bounds(0, 20)),
        target=target,
        high=Watch("TargetHigh", metric, Alarm("GreaterThanThreshold", target, 60, 3, 3)),
        low=Watch("TargetLow", metric, low),
        zero=Watch(
            "BacklogWithoutCapacity",
            "HasBacklogWithoutCapacity",
            Alarm(
                "GreaterThanOrEqualToThreshold",
                1,
                60,
                missing="notBreaching",
                statistic="Maximum",
            ),
        ),
        zero_steps=Steps((Step(0, None, 1),), warmup_s=warmup_s),
        warmup_s=warmup_s,
        every_s=every_s,
        delay_s=delay_s,
    )


def _window_s(watches: Sequence[Watch], delay_s: float) -> float:
    return delay_s + max(w.alarm.period_s * (w.alarm.range_periods + 1) for w in watches)


def _change(before: int, after: int, now: Reading) -> str:
    if after > before:
        return f"{after - before} more"
    if after < before:
        return f"{before - after} fewer"
    return f"no change while {now.pending} start" if now.pending else "no change"
