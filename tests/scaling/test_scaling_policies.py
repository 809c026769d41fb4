"""What each policy decides, and what it says about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cis_tasks.errors import PermanentError
from scaling.alarmed import TargetPolicy, step_policy, target_policy
from scaling.backlog import Reading
from scaling.policy import Decision, Floor, Limits, Policy
from scaling.slo import SloPolicy, oldest_s
from scaling.steps import Bounds

LIMITS = Limits(Bounds(0, 20))
HOUR_S = 3600


def readings(*visible: int, every_s: float = 10.0, **fields: Any) -> list[Reading]:
    """Readings from 0 s on, alike but for how many jobs wait."""
    common = {"in_flight": 0, "in_service": 1, "desired": 1, "service_s": 20.0, "boot_s": 30.0}
    return [
        Reading(time_s=index * every_s, visible=count, **{**common, "max": 20, **fields})
        for index, count in enumerate(visible)
    ]


def minutes(count: int, visible: int = 0, **fields: Any) -> list[Reading]:
    """A reading each ten seconds, for so many minutes."""
    return readings(*[visible] * (6 * count + 1), **fields)


def decide(policy: Policy, seen: Sequence[Reading]) -> Decision:
    return policy.decide(seen)


# ---------------------------------------------------------------- step, the original


def test_step_adds_one_while_as_many_jobs_wait_as_there_are_instances() -> None:
    decision = decide(step_policy(), minutes(4, visible=3, in_service=3, desired=3))
    assert decision.desired == 4
    assert "BacklogHigh is on" in decision.reason
    assert decide(step_policy(), minutes(4, visible=2, in_service=3, desired=3)).desired == 3


def test_step_removes_nothing_while_a_job_runs() -> None:
    busy = minutes(4, in_flight=1, in_service=3, desired=3)
    assert decide(step_policy(), busy).desired == 3
    idle = minutes(4, in_flight=0, in_service=3, desired=3)
    assert decide(step_policy(), idle).desired == 2


def test_step_stays_within_one_and_twenty() -> None:
    least = decide(step_policy(), minutes(4, in_service=1, desired=1))
    assert (least.desired, least.wanted) == (1, 0)
    most = decide(step_policy(), minutes(4, visible=99, in_service=20, desired=20))
    assert most.desired == 20
    assert most.at_max
    assert "the maximum is 20" in most.reason


def test_step_leaves_zero_though_there_is_nothing_to_divide_by() -> None:
    empty = minutes(4, visible=1, in_service=0, desired=0)
    assert decide(step_policy(LIMITS), empty).desired == 1


def test_step_waits_for_what_it_has_started() -> None:
    assert (
        decide(step_policy(), minutes(4, visible=9, in_service=2, pending=1, desired=3)).desired
        == 3
    )


def test_readings_that_are_missing_shrink_nothing() -> None:
    before, after = minutes(1, in_service=3, desired=3, in_flight=3), readings(0, in_service=3)
    late = replace(after[0], time_s=1800.0, desired=3)
    assert decide(step_policy(), [*before, late]).desired == 3


# ---------------------------------------------------------------- target


def target() -> TargetPolicy:
    return target_policy(LIMITS, target=3.0)


def test_target_brings_the_backlog_to_what_is_acceptable() -> None:
    decision = decide(target(), minutes(6, visible=24, in_service=4, desired=4))
    assert decision.desired == 8
    assert "target 3" in decision.reason


def test_target_wants_three_minutes_of_it() -> None:
    assert decide(target(), minutes(2, visible=24, in_service=4, desired=4)).desired == 4


def test_target_shrinks_after_a_quarter_of_an_hour() -> None:
    fields = {"visible": 2, "in_service": 4, "desired": 4}
    assert decide(target(), minutes(14, **fields)).desired == 4
    assert decide(target(), minutes(19, **fields)).desired == 1


def test_target_starts_from_zero_by_its_step_alarm() -> None:
    decision = decide(target(), minutes(3, visible=24, in_service=0, desired=0))
    assert decision.desired == 1
    assert "BacklogWithoutCapacity" in decision.reason


# ---------------------------------------------------------------- slo


def slo(**numbers: Any) -> SloPolicy:
    return SloPolicy(LIMITS, **{"wait_s": 60.0, **numbers})


def test_slo_starts_what_a_burst_needs_at_once() -> None:
    # After 30 s of boot each instance starts one job at once and another 20 s later.
    decision = decide(slo(), readings(0, 0, 20, in_service=0, desired=0))
    assert 7 <= decision.desired <= 20
    assert "20 waiting" in decision.reason
    assert "60 s goal" in decision.reason


def test_slo_starts_nothing_where_what_there_is_suffices() -> None:
    decision = decide(slo(), readings(0, 0, 2, in_service=4, desired=4))
    assert decision.desired == 4
    assert "holds" in decision.reason


def test_slo_counts_what_it_has_started_already() -> None:
    first = decide(slo(), readings(0, 20, in_service=0, desired=0)).desired
    booting = readings(0, 20, in_service=0, pending=first, desired=first)
    assert decide(slo(), booting).desired <= first + 1


def test_slo_needs_more_where_jobs_run_longer() -> None:
    burst = (0, 0, 10)
    quick = decide(slo(), readings(*burst, in_service=0, desired=0, service_s=5.0))
    slow = decide(slo(), readings(*burst, in_service=0, desired=0, service_s=30.0))
    assert quick.desired < slow.desired


def test_slo_removes_only_what_has_been_idle_all_the_time() -> None:
    idle = minutes(3, in_flight=2, in_service=5, desired=5)
    assert decide(slo(), idle).desired == 2
    moment = [*idle[:-2], replace(idle[-2], in_flight=5), idle[-1]]
    assert decide(slo(), moment).desired == 5


def test_slo_keeps_the_last_idle_instance_until_the_load_has_decayed() -> None:
    def after_work(idle: int) -> list[Reading]:
        work = readings(*[0] * (12 + idle))
        return [replace(r, in_flight=1) for r in work[:12]] + work[12:]

    assert decide(slo(), after_work(4)).desired == 1  # idle for longer than it boots
    assert decide(slo(), after_work(24)).desired == 0


@given(st.lists(st.integers(0, 6), min_size=4, max_size=30), st.integers(1, 6), st.integers(0, 6))
def test_slo_removes_nothing_that_it_would_start_again_at_the_same_reading(
    worked: list[int], in_service: int, idle: int
) -> None:
    running = [min(count, in_service) for count in worked] + [0] * idle
    group = {"in_service": in_service, "desired": in_service}
    seen = [
        replace(reading, in_flight=count)
        for reading, count in zip(readings(*[0] * len(running), **group), running, strict=True)
    ]
    left = decide(slo(), seen).desired
    assume(left < in_service)
    after = replace(seen[-1], in_service=left, desired=left)
    assert decide(slo(), [*seen[:-1], after]).desired <= left


def test_slo_keeps_everybody_while_it_has_seen_too_little() -> None:
    assert decide(slo(), readings(0, in_service=5, desired=5)).desired == 5


def test_slo_lets_idle_instances_go_however_long_they_boot() -> None:
    assert decide(slo(), minutes(5, in_service=2, desired=2, boot_s=1_800.0)).desired == 0


def test_slo_goes_to_zero_and_says_why() -> None:
    decision = decide(slo(), minutes(3, in_service=2, desired=2))
    assert decision.desired == 0
    assert "2 had nothing to do" in decision.reason


def test_slo_stays_within_its_budget_and_says_so() -> None:
    poor = slo(budget_per_hour=4.0, price_per_hour=1.0)
    decision = decide(poor, readings(0, 0, 200, in_service=0, desired=0))
    assert decision.desired == 4
    assert "budget" in decision.reason


def test_slo_does_not_rush_for_jobs_that_are_late_whatever_it_does() -> None:
    seen = readings(*[8] * 60, in_service=0, desired=0, boot_s=120.0)
    rushed = decide(slo(), readings(0, 8, in_service=0, desired=0, boot_s=45.0))
    assert decide(slo(), seen).desired <= rushed.desired


def test_clock_that_is_set_back_is_survived() -> None:
    seen = minutes(10, visible=5, in_service=2, desired=2)
    back = replace(seen[-1], time_s=60.0)
    for policy in (step_policy(LIMITS), target(), slo()):
        assert 0 <= decide(policy, [*seen, back]).desired <= 20


def test_age_of_the_oldest_job_is_told_from_how_the_queue_grew() -> None:
    grown = readings(0, 0, 0, 4, 8, 12, in_service=0)  # four more each 10 s, from 20 s on
    assert oldest_s(grown) == pytest.approx(25)  # those of 20 to 30 s, seen at 50 s
    served = readings(0, 0, 0, 4, 8, 2, in_service=1, in_flight=0)
    assert oldest_s(served) < 25
    assert oldest_s(readings(0, 3, 0)) == 0
    assert oldest_s(readings(3)) is None


READING = st.builds(
    Reading,
    time_s=st.floats(0, 1e6),
    visible=st.integers(0, 10_000),
    in_flight=st.integers(0, 500),
    delayed=st.integers(0, 10),
    in_service=st.integers(0, 30),
    pending=st.integers(0, 30),
    desired=st.integers(0, 30),
    max=st.just(20),
    oldest_s=st.none() | st.floats(0, 1e6),
    service_s=st.none() | st.floats(0.01, 1e4),
    boot_s=st.none() | st.floats(0, 1e4),
    slots=st.integers(1, 8),
)


@given(st.lists(READING, min_size=1, max_size=30))
def test_whatever_is_read_the_decision_is_within_the_limits(seen: list[Reading]) -> None:
    for policy in (step_policy(LIMITS), target(), slo(budget_per_hour=7)):
        assert 0 <= decide(policy, seen).desired <= 20


# ---------------------------------------------------------------- limits and nonsense


def test_scheduled_minimum_holds_in_its_hours() -> None:
    limits = Limits(Bounds(0, 20), (Floor(5, start=8, end=18),))
    policy = SloPolicy(limits)
    at = {
        hour: [replace(r, time_s=r.time_s + hour * HOUR_S) for r in readings(0)]
        for hour in (7, 8, 19)
    }
    assert {hour: decide(policy, seen).desired for hour, seen in at.items()} == {7: 1, 8: 5, 19: 1}
    assert "the minimum is 5" in decide(policy, at[8]).reason


def test_scheduled_minimum_may_run_past_midnight() -> None:
    night = Floor(1, start=22, end=6, days=frozenset({3}))  # 1 January 1970 was a Thursday
    assert [night.holds(hour * HOUR_S) for hour in (21, 23, 29, 31, 47)] == [
        False, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda: slo(wait_s=0),
        lambda: slo(wait_s=float("nan")),
        lambda: slo(budget_per_hour=0.5, price_per_hour=1.0),
        lambda: slo(aim=1.5),
        lambda: slo(ease=0.9, aim=0.5),
        lambda: target_policy(target=0),
        lambda: target_policy(target=float("inf")),
        lambda: step_policy(out_threshold=1, in_threshold=1),
        lambda: step_policy(out_threshold=0),
        lambda: Floor(-1, 8, 18),
        lambda: Floor(1, 25, 26),
    ],
)
def test_nonsense_is_refused_when_the_policy_is_made(make: Any) -> None:
    with pytest.raises(PermanentError) as refused:
        make()
    assert refused.value.hint


def test_drain_time_is_unknown_rather_than_endless_without_instances() -> None:
    (reading,) = readings(5, in_service=0)
    assert reading.drain_s is None
    assert reading.without_capacity
    assert reading.backlog_per_instance == 5
