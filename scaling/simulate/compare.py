"""Policies side by side on a workload, and the numbers with which a policy meets a goal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scaling.alarmed import step_policy, target_policy
from scaling.policy import Limits, Policy
from scaling.simulate.fleet import Conditions, Outcome, simulate
from scaling.simulate.queue import Arrivals
from scaling.slo import SloPolicy

GOAL_PERCENTILE = 95.0


@dataclass(frozen=True)
class Goal:
    """What is promised: 95 % of jobs start within so long.

    Attributes:
        wait_s: the wait.
        per_hour: most that it may cost in an hour, on average; None is no limit.
    """

    wait_s: float
    per_hour: float | None = None

    def met(self, outcome: Outcome) -> bool:
        """Whether an outcome keeps it."""
        if outcome.wait_s(GOAL_PERCENTILE) > self.wait_s:
            return False
        return self.per_hour is None or outcome.per_hour <= self.per_hour


@dataclass(frozen=True)
class Candidate:
    """A policy with certain numbers, and what comes of it.

    Attributes:
        numbers: parameter → value.
        outcome: of the simulation.
        meets: whether it keeps the goal.
    """

    numbers: Mapping[str, float]
    outcome: Outcome
    meets: bool


def policies(
    limits: Limits, *, wait_s: float, service_s: float, boot_s: float, delay_s: float
) -> tuple[Policy, ...]:
    """The three policies for one goal, under the same limits."""
    return (
        step_policy(limits, warmup_s=boot_s, delay_s=delay_s),
        target_policy(limits, target=wait_s / service_s, warmup_s=boot_s, delay_s=delay_s),
        SloPolicy(limits, wait_s=wait_s),
    )


def compare(
    chosen: Iterable[Policy], arrivals: Arrivals, conditions: Conditions, limits: Limits
) -> list[Outcome]:
    """What becomes of a workload under each policy; all else is the same."""
    return [simulate(policy, arrivals, conditions, limits) for policy in chosen]


def dominates(one: Outcome, other: Outcome) -> bool:
    """Whether one outcome is nowhere worse than another and somewhere better.

    Compared are the wait that 95 % of jobs do not exceed, and the cost.
    """
    wait, cost = one.wait_s(GOAL_PERCENTILE), one.cost
    other_wait, other_cost = other.wait_s(GOAL_PERCENTILE), other.cost
    no_worse = wait <= other_wait and cost <= other_cost
    return no_worse and (wait < other_wait or cost < other_cost)


def search(
    name: str,
    goal: Goal,
    arrivals: Arrivals,
    conditions: Conditions,
    limits: Limits,
    *,
    delay_s: float = 0.0,
) -> list[Candidate]:
    """Try a policy's numbers on a workload: those that meet the goal first, the cheapest first.

    Args:
        name: of the policy.
        goal: what is to be met.
        arrivals: the workload.
        conditions: what machines are like.
        limits: fewest and most.
        delay_s: how late CloudWatch sees a reading.
    """
    service_s = arrivals.work_s / max(1, len(arrivals))
    tried = []
    target = goal.wait_s / service_s
    boot_s = conditions.boot_s
    for numbers in _numbers(name, target):
        policy = _policy(name, numbers, limits, wait_s=goal.wait_s, boot_s=boot_s, delay_s=delay_s)
        outcome = simulate(policy, arrivals, conditions, limits)
        tried.append(Candidate(numbers, outcome, goal.met(outcome)))
    return sorted(tried, key=lambda one: (not one.meets, *_order(one)))


def _order(one: Candidate) -> tuple[float, float]:
    """The cheapest of those that meet the goal; the quickest of the others."""
    wait = one.outcome.wait_s(GOAL_PERCENTILE)
    return (one.outcome.cost, wait) if one.meets else (wait, one.outcome.cost)


def _numbers(name: str, acceptable: float) -> Sequence[Mapping[str, float]]:
    """Numbers worth trying with a policy."""
    if name == "step":
        return [
            {"out_threshold": threshold, "change": change}
            for threshold in (0.5, 1.0, 2.0, 4.0)
            for change in (1, 2, 4, 8)
        ]
    if name == "target":
        return [{"target": acceptable * share} for share in (0.1, 0.25, 0.5, 1.0, 2.0)]
    return [
        {"ease": ease, "hold": hold} for ease in (0.05, 0.1, 0.2, 0.4) for hold in (0.5, 1.0, 2.0)
    ]


def _policy(
    name: str,
    numbers: Mapping[str, float],
    limits: Limits,
    *,
    wait_s: float,
    boot_s: float,
    delay_s: float,
) -> Policy:
    if name == "step":
        return step_policy(
            limits,
            out_threshold=numbers["out_threshold"],
            change=int(numbers["change"]),
            warmup_s=boot_s,
            delay_s=delay_s,
        )
    if name == "target":
        target = numbers["target"]
        return target_policy(limits, target=target, warmup_s=boot_s, delay_s=delay_s)
    return SloPolicy(limits, wait_s, ease=numbers["ease"], hold=numbers["hold"])
