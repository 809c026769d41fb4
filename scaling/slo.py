"""The policy ``slo``: the fewest instances that keep a promise about waiting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from scaling.backlog import Reading
from scaling.policy import Decision, Limits, positive, unusable

SERVICE_S = 30.0
"""Service time until a job has told."""

BOOT_S = 120.0
"""Boot time until an instance has told."""

SURPRISE = 3.0
"""How many standard deviations make a change of load believed before its average shows it."""


@dataclass(frozen=True)
class SloPolicy:
    """So many instances that 95 % of jobs start within the goal, and no more.

    An instance is paid from launch to end, boot included, and work must be done once, so what can
    be saved is boots and idle time. It adds what the jobs that wait, those that run and those to
    be expected need to start in time, knowing that what it launches now helps only after its boot
    time. It removes only what has had nothing to do for a while.

    Attributes:
        limits: fewest and most instances, scheduled minimums.
        wait_s: goal for the wait of 95 % of jobs.
        budget_per_hour: most that all instances may cost, in the unit of ``price_per_hour``.
        price_per_hour: of one instance.
        aim: share of the goal that is planned with; what is left is for surprises.
        ease: share of the goal from which a standing queue is worked off by further instances.
        catch_up: goals within which a standing queue is worked off.
        load_s: over how long the load is averaged.
        hold: boot times that an idle instance is kept for what may come, ``load_s`` at most.
        every_s: how often it decides.

    Raises:
        PermanentError: its numbers make no sense.
    """

    limits: Limits
    wait_s: float = 60.0
    budget_per_hour: float | None = None
    price_per_hour: float = 1.0
    aim: float = 0.8
    ease: float = 0.1
    catch_up: float = 3.0
    load_s: float = 240.0
    hold: float = 1.0
    every_s: float = 10.0

    name: ClassVar[str] = "slo"
    drains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(
            wait_s=self.wait_s,
            price_per_hour=self.price_per_hour,
            aim=self.aim,
            ease=self.ease,
            catch_up=self.catch_up,
            load_s=self.load_s,
            hold=self.hold,
            every_s=self.every_s,
        )
        if self.aim > 1 or self.ease > self.aim:
            raise unusable(
                f"ease = {self.ease}, aim = {self.aim}", "Use shares with ease ≤ aim ≤ 1."
            )
        if self.budget_per_hour is not None and self.budget_per_hour < self.price_per_hour:
            raise unusable(
                f"a budget of {self.budget_per_hour:g} an hour",
                f"One instance costs {self.price_per_hour:g}; allow at least that.",
            )

    @property
    def window_s(self) -> float:
        """How far back it looks."""
        return max(self.load_s, 2 * self.wait_s) + 2 * self.every_s

    def decide(
        self,
        readings: Sequence[Reading],
        last: Decision | None = None,  # noqa: ARG002  the readings tell what came of it
    ) -> Decision:
        """Decide on what waits, what runs and what is to be expected."""
        view = look(readings, self.load_s)
        need, reason = self._growth(view)
        if need <= 0:
            hold_s = min(self.hold * view.boot_s, self.load_s)
            spare = self._dispensable(view, idle_instances(readings, hold_s))
            need, reason = -spare, _idle_reason(spare, hold_s, reason)
        decision = Decision(
            self.name, view.now.time_s, view.capacity + need, view.capacity + need, reason
        )
        return self.limits.apply(self._within_budget(decision))

    def _growth(self, view: View) -> tuple[int, str]:
        """How many further instances are needed, and why."""
        late = self._for_deadlines(view)
        if late > 0:
            return late, (
                f"{view}: without {late} more, jobs would wait longer than "
                f"{self.aim * self.wait_s:.0f} s of the {self.wait_s:.0f} s goal"
            )
        queued = self._for_queue(view)
        if queued > 0:
            return queued, (
                f"{view}: {queued} more work off the queue, which stands above "
                f"{self.ease * self.wait_s:.0f} s"
            )
        return 0, f"{view}: the goal of {self.wait_s:.0f} s holds with what there is"

    def _dispensable(self, view: View, idle: int) -> int:
        """How many idle instances can go without one being called for again at this reading."""
        while idle and self._growth(view.without(idle))[0] > 0:
            idle -= 1
        return idle

    def _for_deadlines(self, view: View) -> int:
        """Instances without which a job would start too late, though a new one could help it."""
        boot_s, aim_s = view.boot_s, self.aim * self.wait_s
        dues = sorted((self._due_s(age, view), count) for age, count in view.waiting)
        horizon_s = boot_s + aim_s
        moments = sorted({*(due for due, _ in dues), horizon_s, horizon_s + aim_s})
        need, due_jobs, index = 0.0, 0.0, 0
        for at_s in moments:
            while index < len(dues) and dues[index][0] <= at_s:
                due_jobs += dues[index][1]
                index += 1
            if at_s < boot_s:
                continue
            due = due_jobs + view.per_s * max(0.0, at_s - aim_s)
            each = view.slots * view.starts(at_s - boot_s)
            need = max(need, (due - view.starts_by(at_s)) / each)
        return math.ceil(need - 0.3)

    def _due_s(self, age_s: float, view: View) -> float:
        """In how long a waiting job has to start; one beyond help only has to start soon."""
        aimed = self.aim * self.wait_s - age_s
        soonest = view.boot_s + view.service_s / 2
        if aimed >= soonest:
            return aimed
        if self.wait_s - age_s > view.boot_s:
            return max(aimed, min(soonest, self.wait_s - age_s))
        return view.boot_s + self.wait_s / 2

    def _for_queue(self, view: View) -> int:
        """Instances that work off a queue which stands for longer than it has to."""
        queue = view.waits + view.per_s * view.boot_s - view.starts_by(view.boot_s)
        capacity = max(1, view.capacity) * view.slots
        if queue * view.service_s / capacity <= self.ease * self.wait_s:
            return 0
        extra = queue * view.service_s / (self.catch_up * self.wait_s)
        return math.ceil((view.load + extra) / view.slots - view.capacity - 0.5)

    def _within_budget(self, decision: Decision) -> Decision:
        if self.budget_per_hour is None:
            return decision
        affordable = math.floor(self.budget_per_hour / self.price_per_hour + 1e-9)
        if decision.wanted <= affordable:
            return decision
        reason = (
            f"{decision.reason}; {decision.wanted} wanted, the budget of "
            f"{self.budget_per_hour:g} an hour is enough for {affordable}"
        )
        return replace(decision, wanted=affordable, desired=affordable, reason=reason)


@dataclass(frozen=True)
class View:
    """What the readings come to.

    Attributes:
        now: the newest reading.
        service_s: how long a job runs.
        boot_s: from launch to first job.
        load: slots that are kept busy by what arrives.
        waiting: ages of waiting jobs and how many have each, in seconds.
    """

    now: Reading
    service_s: float
    boot_s: float
    load: float
    waiting: tuple[tuple[float, float], ...]

    @property
    def slots(self) -> int:
        """Jobs that an instance runs at a time."""
        return self.now.slots

    @property
    def waits(self) -> int:
        """Jobs that wait."""
        return self.now.visible

    @property
    def capacity(self) -> int:
        """Instances that are there or start."""
        return self.now.in_service + self.now.pending

    def without(self, count: int) -> View:
        """The same with so many instances less, those in service first."""
        serving = min(count, self.now.in_service)
        now = replace(
            self.now,
            in_service=self.now.in_service - serving,
            pending=self.now.pending - (count - serving),
        )
        return replace(self, now=now)

    @property
    def per_s(self) -> float:
        """Jobs that arrive in a second."""
        return self.load / self.service_s

    def starts(self, ready_s: float) -> float:
        """Jobs that a slot starts within ``ready_s`` of being free."""
        return 0.5 + ready_s / self.service_s

    def starts_by(self, at_s: float) -> float:
        """Jobs that what is there or starts will have started in ``at_s``."""
        slots = self.now.in_service * self.slots
        busy = min(self.now.in_flight, slots)
        started = busy * at_s / self.service_s + (slots - busy) * self.starts(at_s)
        booted_s = at_s - self.boot_s / 2
        if booted_s > 0:
            started += self.now.pending * self.slots * self.starts(booted_s)
        return started

    def __str__(self) -> str:
        oldest = f" (oldest {self.waiting[-1][0]:.0f} s)" if self.waiting else ""
        return (
            f"{self.waits} waiting{oldest}, {self.now.in_flight} running, "
            f"load {self.load / self.slots:.1f} instances"
        )


def look(readings: Sequence[Reading], load_s: float) -> View:
    """Make of readings what a decision needs.

    Args:
        readings: oldest first; those that a clock set back has put after the newest do not count.
        load_s: over how long the load is averaged.
    """
    now = readings[-1]
    past = [reading for reading in readings if reading.time_s < now.time_s]
    service_s = now.service_s or SERVICE_S
    arrivals = _arrivals([*past, now], service_s)
    return View(
        now=now,
        service_s=service_s,
        boot_s=now.boot_s if now.boot_s is not None else BOOT_S,
        load=_load(arrivals, now, service_s, load_s),
        waiting=_ages(arrivals, now),
    )


def oldest_s(readings: Sequence[Reading]) -> float | None:
    """About how old the oldest waiting job is; None where there are too few readings to tell.

    SQS counts messages but tells no age. As queues are first in, first out, those that wait are
    those that came last.
    """
    now = readings[-1]
    if not now.visible:
        return 0.0
    past = [reading for reading in readings if reading.time_s < now.time_s]
    if not past:
        return None
    arrivals = _arrivals([*past, now], now.service_s or SERVICE_S)
    return _ages(arrivals, now)[-1][0]


def idle_instances(readings: Sequence[Reading], hold_s: float) -> int:
    """Instances that have had nothing to do for ``hold_s``, in every reading since."""
    now = readings[-1]
    held = [r for r in readings if now.time_s - hold_s <= r.time_s <= now.time_s]
    if now.time_s - readings[0].time_s < hold_s:
        return 0
    return max(0, min(_idle(reading) for reading in held))


def _idle(reading: Reading) -> int:
    if reading.visible or reading.delayed:
        return 0
    return reading.in_service + reading.pending - math.ceil(reading.in_flight / reading.slots)


def _arrivals(readings: Sequence[Reading], service_s: float) -> list[tuple[float, float, float]]:
    """Begin, end and number of jobs that came between readings, as more or less was left to do."""
    found = []
    for before, after in pairwise(readings):
        elapsed = after.time_s - before.time_s
        ended = (before.in_flight + after.in_flight) / 2 * elapsed / service_s
        found.append((before.time_s, after.time_s, after.outstanding - before.outstanding + ended))
    return found


def _load(
    arrivals: Sequence[tuple[float, float, float]], now: Reading, service_s: float, load_s: float
) -> float:
    """Slots kept busy by what arrives: on average, or just now where that stands out."""
    if not arrivals:
        return float(now.in_flight)
    slow = _busy(arrivals, now.time_s - load_s, service_s)
    fast_s = max(30.0, service_s)
    fast = _busy(arrivals, now.time_s - fast_s, service_s)
    deviation = math.sqrt(max(slow, 1.0) * service_s / fast_s)
    return fast if abs(fast - slow) > SURPRISE * deviation else slow


def _busy(
    arrivals: Sequence[tuple[float, float, float]], since_s: float, service_s: float
) -> float:
    recent = [interval for interval in arrivals if interval[1] > since_s]
    if not recent:
        return 0.0
    elapsed = max(1.0, recent[-1][1] - recent[0][0])  # a lesser time tells no rate
    return max(0.0, sum(count for _, _, count in recent) * service_s / elapsed)


def _ages(
    arrivals: Sequence[tuple[float, float, float]], now: Reading
) -> tuple[tuple[float, float], ...]:
    """Ages of the jobs that wait, youngest first: queues are first in, first out."""
    left, ages = float(now.visible), []
    for begin, end, count in reversed(arrivals):
        if left <= 0:
            break
        taken = min(left, max(0.0, count))
        left -= taken
        if taken:
            ages.append((_known(now.time_s - (begin + end) / 2, now), taken))
    if left > 0:
        oldest = now.time_s - arrivals[0][0] if arrivals else 0.0
        ages.append((_known(oldest, now), left))
    return tuple(ages)


def _known(age_s: float, now: Reading) -> float:
    return age_s if now.oldest_s is None else min(age_s, now.oldest_s)


def _idle_reason(spare: int, hold_s: float, otherwise: str) -> str:
    if not spare:
        return otherwise
    return f"{otherwise}; {spare} had nothing to do for {hold_s:.0f} s"
