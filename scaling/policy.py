"""What every scaling policy gives: how many instances there should be, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import ClassVar, Protocol

from cis_tasks.errors import PermanentError
from scaling.alarms import State
from scaling.backlog import Reading
from scaling.steps import Bounds

DAY_S = 86_400


@dataclass(frozen=True)
class Decision:
    """How many instances there should be.

    Attributes:
        policy: who decided.
        time_s: of the reading that was decided on.
        desired: instances, within the limits.
        wanted: instances that the policy would want without limits.
        reason: why, in a sentence.
        alarms: states of the alarms that it looked at, by name.
    """

    policy: str
    time_s: float
    desired: int
    wanted: int
    reason: str
    alarms: Mapping[str, State] = field(default_factory=dict)

    @property
    def at_max(self) -> bool:
        """Whether more was wanted than is allowed."""
        return self.wanted > self.desired


class Policy(Protocol):
    """A pure function from readings to a decision.

    Attributes:
        name: what it is called.
        drains: whether a busy instance that is too many takes no further job and leaves when its
            job is done; otherwise instances leave when they are found idle.
    """

    name: ClassVar[str]
    drains: ClassVar[bool]

    @property
    def every_s(self) -> float:
        """How often it decides."""
        ...

    @property
    def window_s(self) -> float:
        """How far back it looks."""
        ...

    def decide(self, readings: Sequence[Reading], last: Decision | None = None) -> Decision:
        """Decide.

        Args:
            readings: oldest first, the newest is now; those older than ``window_s`` may be left
                out.
            last: what was decided before.
        """
        ...


@dataclass(frozen=True)
class Floor:
    """A scheduled minimum: at least so many instances at certain hours.

    Attributes:
        min: instances.
        start: hour of the day, UTC, 0 to 24, with fractions.
        end: hour at which it ends; before ``start`` it is on the next day.
        days: days of the week on which it starts, Monday is 0.

    Raises:
        PermanentError: its numbers make no sense.
    """

    min: int
    start: float
    end: float
    days: frozenset[int] = frozenset(range(7))

    def __post_init__(self) -> None:
        if self.min < 0 or not (0 <= self.start < 24 and 0 <= self.end <= 24) or not self.days:
            raise unusable(
                f"a scheduled minimum of {self.min} from {self.start} to {self.end} o'clock",
                "Use hours of the day from 0 to 24, at least one day, and no negative minimum.",
            )

    def holds(self, time_s: float) -> bool:
        """Whether it holds at a moment."""
        now = datetime.fromtimestamp(time_s, UTC)
        hour = (time_s % DAY_S) / 3600
        if self.start <= self.end:
            return now.weekday() in self.days and self.start <= hour < self.end
        if hour >= self.start:
            return now.weekday() in self.days
        return (now.weekday() - 1) % 7 in self.days and hour < self.end


@dataclass(frozen=True)
class Limits:
    """What no decision goes beyond.

    Attributes:
        bounds: fewest and most instances.
        floors: scheduled minimums.
    """

    bounds: Bounds
    floors: tuple[Floor, ...] = ()

    def at(self, time_s: float) -> Bounds:
        """The bounds that hold at a moment."""
        floor = max((f.min for f in self.floors if f.holds(time_s)), default=0)
        return replace(self.bounds, min=min(self.bounds.max, max(self.bounds.min, floor)))

    def apply(self, decision: Decision) -> Decision:
        """A decision brought within the limits, which its reason then tells."""
        bounds = self.at(decision.time_s)
        desired = bounds.clamp(decision.wanted)
        reason = decision.reason
        if desired < decision.wanted:
            reason += f"; {decision.wanted} wanted, the maximum is {bounds.max}"
        elif desired > decision.wanted:
            reason += f"; the minimum is {bounds.min}"
        return replace(decision, desired=desired, reason=reason)


def positive(**numbers: float) -> None:
    """Refuse numbers that are not finite and greater than zero.

    Raises:
        PermanentError: names the first that is not.
    """
    for name, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise unusable(f"{name} = {value}", "Use a finite number greater than zero.")


def unusable(what: str, hint: str) -> PermanentError:
    """The error of a policy that is made with nonsense."""
    return PermanentError("policy_unusable", f"A scaling policy cannot work with {what}.", hint)
