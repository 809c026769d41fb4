"""A simulated group: a policy is asked, machines boot, work, are lost, and are paid for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from cis_tasks.errors import PermanentError
from scaling.backlog import Reading
from scaling.policy import Decision, Limits, Policy
from scaling.simulate.queue import Arrivals, Machine, Queue

HOUR_S = 3_600.0


@dataclass(frozen=True)
class Conditions:
    """What machines are like.

    Attributes:
        boot_s: from launch to the first job.
        boot_variation: standard deviation of the boot time ÷ its mean.
        slots: jobs that one machine runs at a time.
        price_per_hour: of one machine, billed by the second from launch to end.
        billed_at_least_s: least time that is billed (EC2: 60 s).
        publish_s: how often the queue and the group are read.
        losses_per_hour: spot interruptions of one machine in an hour.
        storms: moments at which ``storm_share`` of the machines is interrupted at once.
        storm_share: how much of the fleet a storm takes.
        notice_s: between an interruption's notice and the end of the machine (EC2: 120 s).
        seed: of everything that is drawn here.

    Raises:
        PermanentError: its numbers make no sense.
    """

    boot_s: float = 30.0
    boot_variation: float = 0.1
    slots: int = 1
    price_per_hour: float = 1.0
    billed_at_least_s: float = 60.0
    publish_s: float = 10.0
    losses_per_hour: float = 0.0
    storms: tuple[float, ...] = ()
    storm_share: float = 0.5
    notice_s: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.boot_s, self.losses_per_hour, self.boot_variation, self.notice_s)
        fine = all(math.isfinite(n) and n >= 0 for n in numbers) and self.slots >= 1
        if not (fine and self.price_per_hour > 0 and self.publish_s > 0):
            raise PermanentError(
                "conditions_unusable",
                f"No fleet can be simulated under {self}.",
                "Use times and rates that are not negative, at least one slot, a positive price.",
            )


@dataclass(frozen=True)
class Sample:
    """The fleet at one moment: what the plots show."""

    time_s: float
    visible: int
    in_flight: int
    in_service: int
    pending: int
    desired: int


@dataclass(frozen=True)
class Outcome:
    """What became of a workload under a policy.

    Attributes:
        policy: its name.
        waits_s: of each job.
        paid_s: seconds paid for, over all machines.
        work_s: seconds of work asked for.
        price_per_hour: of a machine.
        launched: machines launched.
        lost: machines interrupted.
        peak: most machines at a time.
        curve: samples over time.
        decisions: each change of what is desired, with its reason.
    """

    policy: str
    waits_s: np.ndarray
    paid_s: float
    work_s: float
    price_per_hour: float
    launched: int
    lost: int
    peak: int
    curve: tuple[Sample, ...]
    decisions: tuple[Decision, ...]

    def wait_s(self, percentile: float) -> float:
        """A percentile of the waits."""
        return float(np.percentile(self.waits_s, percentile)) if len(self.waits_s) else 0.0

    @property
    def cost(self) -> float:
        """In the unit of the price."""
        return self.paid_s / HOUR_S * self.price_per_hour

    @property
    def per_hour(self) -> float:
        """Mean cost of an hour."""
        hours = self.curve[-1].time_s / HOUR_S if self.curve else 0.0
        return self.cost / hours if hours else self.cost

    @property
    def utilisation(self) -> float:
        """Share of the time paid for that went into work asked for (per slot)."""
        return self.work_s / self.paid_s if self.paid_s else 0.0


def simulate(policy: Policy, arrivals: Arrivals, conditions: Conditions, limits: Limits) -> Outcome:
    """Run a workload to its end under a policy.

    Assumptions: SQS's counts are right when read; the work of a job does not depend on its
    machine; instances that are too many leave when found idle at a reading, or, under a policy
    that drains, when their job is done; an interrupted machine takes no further job, and what it
    has not finished when its notice ends starts again elsewhere.
    """
    return _Fleet(policy, arrivals, conditions, limits).run()


class _Fleet:
    def __init__(
        self, policy: Policy, arrivals: Arrivals, conditions: Conditions, limits: Limits
    ) -> None:
        self._policy, self._arrivals = policy, arrivals
        self._conditions, self._limits = conditions, limits
        self._random = np.random.default_rng(conditions.seed)
        self._environment = simpy.Environment()
        self._queue = Queue(arrivals)
        self._pending: list[Machine] = []
        self._serving: list[Machine] = []
        self._leaving: list[Machine] = []
        self._all: list[Machine] = []
        self._desired = limits.at(0).min
        self._readings: deque[Reading] = deque()
        self._curve: list[Sample] = []
        self._decisions: list[Decision] = []
        self._lost = self._peak = 0
        self._service_s = arrivals.work_s / max(1, len(arrivals))

    def run(self) -> Outcome:
        environment = self._environment
        environment.process(self._storms())
        self._launch(self._desired, boot_s=0.0)
        environment.run(environment.process(self._control()))
        end_s = environment.now
        for machine in self._all:
            machine.ended_s = min(machine.ended_s, end_s)
        least = self._conditions.billed_at_least_s
        paid_s = math.fsum(max(least, m.ended_s - m.launched_s) for m in self._all)
        return Outcome(
            policy=self._policy.name,
            waits_s=np.asarray(self._queue.waits_s),
            paid_s=paid_s,
            work_s=self._arrivals.work_s / self._conditions.slots,
            price_per_hour=self._conditions.price_per_hour,
            launched=len(self._all),
            lost=self._lost,
            peak=self._peak,
            curve=tuple(self._curve),
            decisions=tuple(self._decisions),
        )

    def _control(self) -> Generator[Any, Any, None]:
        every = max(1, round(self._policy.every_s / self._conditions.publish_s))
        tick, last = 0, None
        while True:
            self._queue.advance(self._environment.now)
            if self._queue.done:
                return
            reading = self._read()
            if tick % every == 0:
                decision = self._policy.decide(self._readings, last)
                if last is None or decision.desired != last.desired:
                    self._decisions.append(decision)
                last, self._desired = decision, decision.desired
            self._reconcile()
            self._curve.append(
                Sample(
                    reading.time_s,
                    reading.visible,
                    reading.in_flight,
                    reading.in_service,
                    reading.pending,
                    self._desired,
                )
            )
            tick += 1
            yield self._environment.timeout(self._conditions.publish_s)

    def _read(self) -> Reading:
        now_s, bounds = self._environment.now, self._limits.at(self._environment.now)
        reading = Reading(
            time_s=now_s,
            visible=self._queue.visible,
            in_flight=self._queue.running,
            in_service=len(self._serving),
            pending=len(self._pending),
            desired=self._desired,
            min=bounds.min,
            max=bounds.max,
            oldest_s=None,
            service_s=self._service_s,
            boot_s=self._conditions.boot_s,
            slots=self._conditions.slots,
        )
        self._readings.append(reading)
        while self._readings[0].time_s < now_s - self._policy.window_s:
            self._readings.popleft()
        self._peak = max(self._peak, reading.in_service + reading.pending)
        return reading

    def _reconcile(self) -> None:
        """Bring the group to what is desired, as Auto Scaling does."""
        surplus = len(self._serving) + len(self._pending) - self._desired
        if surplus < 0:
            self._launch(-surplus)
            return
        idle = [m for m in self._serving if not m.jobs]
        for machine in idle[:surplus]:
            self._retire(machine)
            surplus -= 1
        for machine in self._pending[::-1][:surplus]:
            self._pending.remove(machine)
            machine.ended_s = self._environment.now
            surplus -= 1
        if self._policy.drains:
            for machine in self._serving[:surplus]:
                self._retire(machine)

    def _retire(self, machine: Machine) -> None:
        """Let a machine take no further job; it ends with the last that it has."""
        if machine not in self._serving:
            return
        self._serving.remove(machine)
        machine.accepts = False
        if not machine.jobs:
            machine.ended_s = self._environment.now

    def _launch(self, count: int, boot_s: float | None = None) -> None:
        for _ in range(count):
            machine = Machine(self._environment.now)
            self._all.append(machine)
            self._pending.append(machine)
            self._environment.process(self._life(machine, boot_s))

    def _life(self, machine: Machine, boot_s: float | None) -> Generator[Any, Any, None]:
        c = self._conditions
        if boot_s is None:
            boot_s = max(0.0, float(self._random.normal(c.boot_s, c.boot_s * c.boot_variation)))
        yield self._environment.timeout(boot_s)
        if machine not in self._pending:
            return
        self._queue.advance(self._environment.now)
        self._pending.remove(machine)
        self._serving.append(machine)
        self._queue.add(machine, c.slots)
        if c.losses_per_hour:
            lost_s = float(self._random.exponential(HOUR_S / c.losses_per_hour))
            yield self._environment.timeout(lost_s)
            yield from self._lose(machine)

    def _lose(self, machine: Machine) -> Generator[Any, Any, None]:
        """A spot interruption: notice, then the end."""
        if machine.ended_s < math.inf:
            return
        self._queue.advance(self._environment.now)
        self._lost += 1
        self._retire(machine)
        yield self._environment.timeout(self._conditions.notice_s)
        self._queue.advance(self._environment.now)
        if machine.ended_s == math.inf:
            machine.ended_s = self._environment.now
            self._queue.hand_back(machine)

    def _storms(self) -> Generator[Any, Any, None]:
        for moment_s in sorted(self._conditions.storms):
            yield self._environment.timeout(max(0.0, moment_s - self._environment.now))
            count = round(len(self._serving) * self._conditions.storm_share)
            for machine in list(self._serving)[:count]:
                self._environment.process(self._lose(machine))
