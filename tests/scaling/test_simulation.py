"""The simulator: held against a plain simpy model, against arithmetic, and against its bound."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Generator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import simpy

from cis_tasks.errors import PermanentError
from scaling.alarmed import step_policy
from scaling.backlog import Reading
from scaling.policy import Decision, Limits
from scaling.simulate import arrivals as workloads
from scaling.simulate.clairvoyant import clairvoyant
from scaling.simulate.compare import Goal, compare, dominates, policies, search
from scaling.simulate.fleet import Conditions, Outcome, simulate
from scaling.simulate.plots import curves
from scaling.simulate.queue import Arrivals
from scaling.simulate.validation import Recording, agreement
from scaling.slo import SloPolicy
from scaling.steps import Bounds

LIMITS = Limits(Bounds(0, 60))
SERVICE = workloads.Service(20.0, 0.5)


class Fixed:
    """A policy that always wants the same."""

    name: ClassVar[str] = "fixed"
    drains: ClassVar[bool] = False
    every_s = 10.0
    window_s = 10.0

    def __init__(self, count: int) -> None:
        self._count = count

    def decide(self, readings: Sequence[Reading], last: Decision | None = None) -> Decision:
        return Decision(self.name, readings[-1].time_s, self._count, self._count, "fixed")


def fixed(count: int, work: Arrivals, **conditions: Any) -> Outcome:
    limits = Limits(Bounds(count, max(count, 1)))
    return simulate(Fixed(count), work, Conditions(**conditions), limits)


def process_per_job(work: Arrivals, machines: int) -> list[float]:
    """Waits by simpy alone: the slow and plain model that the fast one must agree with."""
    environment = simpy.Environment()
    pool = simpy.Resource(environment, machines)
    waits: list[float] = []

    def job(at_s: float, service_s: float) -> Generator[Any, Any, None]:
        yield environment.timeout(at_s)
        with pool.request() as slot:
            yield slot
            waits.append(environment.now - at_s)
            yield environment.timeout(service_s)

    for at_s, service_s in zip(work.times_s, work.service_s, strict=True):
        environment.process(job(at_s, service_s))
    environment.run()
    return sorted(waits)


def test_waits_are_those_of_a_process_per_job() -> None:
    work = workloads.poisson(2_000, 3_600, SERVICE, seed=3)
    outcome = fixed(12, work)
    assert sorted(outcome.waits_s) == pytest.approx(process_per_job(work, 12))
    assert outcome.wait_s(95) > 1  # there was something to wait for


def test_jobs_of_one_group_run_one_after_the_other_and_all_run() -> None:
    work = workloads.poisson(1_000, 3_600, SERVICE, seed=1, groups=20)
    assert work.groups is not None
    outcome = fixed(50, work)
    runs = defaultdict(list)
    for index, group in enumerate(work.groups):
        start = work.times_s[index] + outcome.waits_s[index]
        runs[group].append((start, start + work.service_s[index]))
    for spans in runs.values():
        assert all(end <= start + 1e-9 for (_, end), (start, _) in pairwise(spans))
    free = fixed(50, Arrivals(work.times_s, work.service_s))
    assert outcome.wait_s(95) > free.wait_s(95)


def test_two_slots_do_the_work_of_two_machines() -> None:
    work = workloads.poisson(1_500, 3_600, SERVICE, seed=2)
    one = fixed(10, work, slots=1)
    two = fixed(5, work, slots=2)
    assert sorted(two.waits_s) == pytest.approx(sorted(one.waits_s))
    assert two.cost == pytest.approx(one.cost / 2)


def test_cost_is_paid_by_the_second_from_launch_to_end() -> None:
    outcome = fixed(2, Arrivals([0.0], [3_595.0]), price_per_hour=3.0)
    assert outcome.cost == pytest.approx(2 * 3.0)


def test_a_machine_is_billed_for_a_minute_at_least() -> None:
    work = Arrivals([0.0], [5.0])
    outcome = simulate(SloPolicy(LIMITS), work, Conditions(boot_s=10, boot_variation=0), LIMITS)
    assert outcome.launched == 1
    assert outcome.paid_s == 60


def test_a_first_job_waits_for_a_machine_to_boot() -> None:
    work = Arrivals([5.0], [20.0])
    outcome = simulate(SloPolicy(LIMITS), work, Conditions(boot_s=30, boot_variation=0), LIMITS)
    assert outcome.waits_s[0] == pytest.approx(35)  # it is seen at 10 s


def test_no_job_is_lost_when_machines_are() -> None:
    work = workloads.daily(3_000, SERVICE, seed=1)
    stormy = Conditions(losses_per_hour=2, storms=(14 * 3600.0,), notice_s=5, seed=4)
    outcome = simulate(SloPolicy(LIMITS), work, stormy, LIMITS)
    assert outcome.lost > 20
    assert len(outcome.waits_s) == len(work)
    assert outcome.paid_s > outcome.work_s
    assert outcome.wait_s(95) < 120


def test_interrupted_job_starts_again_elsewhere() -> None:
    work = Arrivals([0.0], [300.0])
    storm = Conditions(boot_s=10, boot_variation=0, storms=(100.0,), storm_share=1.0, notice_s=50)
    outcome = simulate(SloPolicy(LIMITS), work, storm, LIMITS)
    assert outcome.lost == 1
    assert outcome.waits_s[0] >= 150


def test_slo_keeps_its_goal_for_little_more_than_a_clairvoyant_pays() -> None:
    work = workloads.daily(50_000, SERVICE, seed=1)
    conditions = Conditions(boot_s=30)
    outcome = simulate(SloPolicy(LIMITS, 60), work, conditions, LIMITS)
    bound = clairvoyant(work, wait_s=60, boot_s=30, bin_s=300)
    assert outcome.wait_s(95) <= 60
    assert outcome.paid_s <= 1.15 * bound.paid_s


def test_slo_dominates_the_others_on_a_burst() -> None:
    work = workloads.bursts(
        SERVICE, 1, duration_s=14_400, calm_per_hour=600, burst_per_hour=7_200, count=3
    )
    chosen = policies(LIMITS, wait_s=60, service_s=20, boot_s=30, delay_s=5)
    step, target, slo = compare(chosen, work, Conditions(boot_s=30), LIMITS)
    assert slo.wait_s(95) <= 60
    assert dominates(slo, step)
    assert dominates(slo, target)
    assert not dominates(step, slo)


def test_nobody_is_cheaper_than_the_clairvoyant() -> None:
    work = workloads.poisson(900, 4 * 3600, SERVICE, seed=5)
    bound = clairvoyant(work, wait_s=60, boot_s=30, bin_s=60)
    work_s = work.work_s
    assert work_s * 0.999 <= bound.paid_s
    for outcome in compare(
        policies(LIMITS, wait_s=60, service_s=20, boot_s=30, delay_s=0),
        work,
        Conditions(boot_s=30),
        LIMITS,
    ):
        assert bound.paid_s <= outcome.paid_s


def test_bound_of_jobs_that_may_not_wait_is_a_machine_for_each() -> None:
    work = Arrivals([100.001] * 10, [50.0] * 10)
    bound = clairvoyant(work, wait_s=0, boot_s=30, share=1.0, bin_s=10)
    assert bound.boots == pytest.approx(10, rel=0.01)
    assert bound.paid_s == pytest.approx(10 * (50 + 30), rel=0.01)
    patient = clairvoyant(work, wait_s=10_000, boot_s=30, share=1.0, bin_s=10)
    assert patient.paid_s < 10 * 50 + 2 * 30


def test_search_finds_numbers_that_meet_the_goal_cheapest_first() -> None:
    work = workloads.poisson(1_000, 3_600, SERVICE, seed=1)
    conditions, goal = Conditions(boot_s=30), Goal(wait_s=90)
    tried = search("step", goal, work, conditions, LIMITS)
    meeting = [one for one in tried if one.meets]
    assert meeting
    assert tried[: len(meeting)] == meeting
    assert [one.outcome.cost for one in meeting] == sorted(one.outcome.cost for one in meeting)
    again = step_policy(
        LIMITS,
        out_threshold=tried[0].numbers["out_threshold"],
        change=int(tried[0].numbers["change"]),
        warmup_s=30,
    )
    outcome = simulate(again, work, conditions, LIMITS)
    assert outcome.wait_s(95) == pytest.approx(tried[0].outcome.wait_s(95))


def test_search_says_where_no_numbers_meet_the_goal() -> None:
    work = workloads.at_once(100, SERVICE, seed=1)
    tried = search("target", Goal(wait_s=1), work, Conditions(boot_s=60), LIMITS)
    assert not tried[0].meets


def test_workloads_have_the_jobs_that_were_asked_for() -> None:
    assert len(workloads.daily(10_000, SERVICE, 1)) == pytest.approx(10_000, rel=0.05)
    assert len(workloads.poisson(500, 7_200, SERVICE, 1)) == pytest.approx(1_000, rel=0.1)
    burst = workloads.bursts(SERVICE, 1, calm_per_hour=100, burst_per_hour=4_000, count=4)
    assert len(burst) == pytest.approx(100 * 23 + 4_000 * 1, rel=0.05)
    assert np.mean(burst.service_s) == pytest.approx(20, rel=0.05)
    assert np.std(burst.service_s) == pytest.approx(10, rel=0.1)


def test_trace_is_replayed_as_it_was(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time_s,service_s,group\n110,5,b\n100,7,a\n120,3,a\n")
    work = workloads.recorded(trace, SERVICE)
    assert (work.times_s, work.service_s, work.groups) == ([0, 10, 20], [7, 5, 3], [0, 1, 0])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no rows"),
        ("when\n1\n", "no column time_s"),
        ("time_s\n1\nsoon\n", "line 3 has time_s = 'soon'"),
        ("time_s\n-1\n", "line 2"),
        ("time_s,service_s\n1,nan\n", "service_s = 'nan'"),
    ],
)
def test_trace_that_cannot_be_read_is_refused(tmp_path: Path, content: str, why: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(content)
    with pytest.raises(PermanentError, match="trace_unreadable") as refused:
        workloads.recorded(trace, SERVICE)
    assert why in refused.value.message


@pytest.mark.parametrize(
    "make",
    [
        lambda: workloads.Service(-1),
        lambda: workloads.poisson(0, 10, SERVICE, 1),
        lambda: workloads.bursts(SERVICE, 1, duration_s=100, burst_s=60, count=2),
        lambda: Conditions(boot_s=-1),
        lambda: Conditions(slots=0),
    ],
)
def test_nonsense_is_refused(make: Any) -> None:
    with pytest.raises(PermanentError) as refused:
        make()
    assert refused.value.hint


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_curve_is_drawn(tmp_path: Path, ending: str, magic: bytes) -> None:
    work = workloads.poisson(300, 3_600, SERVICE, seed=1)
    outcome = simulate(SloPolicy(LIMITS), work, Conditions(), LIMITS)
    file = tmp_path / f"curve{ending}"
    curves([outcome], work, file, "an hour")
    assert file.read_bytes().startswith(magic)
    with pytest.raises(PermanentError, match="plot_unknown"):
        curves([outcome], work, tmp_path / "curve.doc", "an hour")


def test_recording_of_a_fleet_is_replayed_and_compared(tmp_path: Path) -> None:
    work = workloads.at_once(60, workloads.Service(2.0, 0.2), seed=1)
    limits = Limits(Bounds(0, 8))
    policy, conditions = SloPolicy(limits, wait_s=30, every_s=1), Conditions(boot_s=5, publish_s=1)
    happened = simulate(policy, work, conditions, limits)
    jobs = [
        {"arrived_s": 7.0, "started_s": 7.0 + wait, "service_s": service}
        for wait, service in zip(happened.waits_s, work.service_s, strict=True)
    ]
    file = tmp_path / "recording.json"
    content = {
        "policy": "slo",
        "numbers": {"wait_s": 30, "every_s": 1},
        "min": 0,
        "max": 8,
        "conditions": {"boot_s": 5, "publish_s": 1},
        "jobs": jobs,
    }
    file.write_text(json.dumps(content))
    assert agreement(Recording.read(file)).error == pytest.approx(0, abs=1e-9)
    slower = [{**job, "started_s": 7 + 2 * (job["started_s"] - 7)} for job in jobs]
    file.write_text(json.dumps({**content, "jobs": slower}))
    assert agreement(Recording.read(file)).error == pytest.approx(0.5, abs=0.01)
    file.write_text("{}")
    with pytest.raises(PermanentError, match="recording_unreadable"):
        Recording.read(file)
