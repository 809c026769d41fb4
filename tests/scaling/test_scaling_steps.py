"""Step adjustments and target tracking, as Auto Scaling's documentation says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis_tasks.errors import PermanentError
from scaling.steps import Bounds, Step, Steps, step_capacity, tracking_capacity

OUT = Steps((Step(0, 10, 1), Step(10, 20, 3), Step(20, None, 5)))
IN = Steps((Step(-10, 0, -1), Step(None, -10, -2)))


@pytest.mark.parametrize(
    ("beyond", "change"), [(0, 1), (9.99, 1), (10, 3), (19.99, 3), (20, 5), (1e9, 5), (-1, None)]
)
def test_lower_bound_belongs_to_a_step_out(beyond: float, change: int | None) -> None:
    assert OUT.change_at(beyond) == change


@pytest.mark.parametrize(("beyond", "change"), [(0, -1), (-9.99, -1), (-10, -2), (-1e9, -2)])
def test_upper_bound_belongs_to_a_step_in(beyond: float, change: int) -> None:
    assert IN.change_at(beyond) == change


def test_one_alarm_over_several_minutes_adds_its_step_once_while_instances_warm_up() -> None:
    capacity = step_capacity(OUT, 5, capacity=4)
    assert capacity == 5
    assert step_capacity(OUT, 5, capacity, warming=1) == 5


def test_a_worse_alarm_adds_only_what_is_not_warming_up_yet() -> None:
    assert step_capacity(OUT, 15, capacity=5, warming=1) == 7


def test_nothing_shrinks_while_an_instance_warms_up() -> None:
    assert step_capacity(IN, -5, capacity=5, warming=1) == 5
    assert step_capacity(IN, -5, capacity=5) == 4
    assert step_capacity(IN, -50, capacity=1) == 0


@pytest.mark.parametrize(
    ("capacity", "percent", "expected"),
    [(10, 10, 11), (3, 10, 4), (10, 15, 11), (10, -15, 9), (3, -10, 2), (10, 100, 20)],
)
def test_percentages_are_rounded_towards_zero_but_never_to_it(
    capacity: int, percent: int, expected: int
) -> None:
    step = Step(0, None, percent) if percent > 0 else Step(None, 0, percent)
    policy = Steps((step,), "PercentChangeInCapacity")
    assert step_capacity(policy, 0.0, capacity) == expected


def test_exact_capacity_is_what_it_says() -> None:
    assert step_capacity(Steps((Step(0, None, 7),), "ExactCapacity"), 0.0, 3) == 7


@pytest.mark.parametrize(
    ("metric", "capacity", "expected"),
    [(6.0, 4, 8), (3.0, 4, 4), (3.1, 4, 5), (1.5, 4, 2), (0.0, 4, 0), (9.0, 0, 0)],
)
def test_tracking_multiplies_capacity_and_rounds_up(
    metric: float, capacity: int, expected: int
) -> None:
    assert tracking_capacity(metric, 3.0, capacity) == expected


@given(st.floats(0, 1e6), st.floats(0.01, 1e3), st.integers(0, 500), st.integers(0, 500))
def test_tracking_never_removes_what_warms_up(
    metric: float, target: float, capacity: int, warming: int
) -> None:
    warming = min(warming, capacity)
    wanted = tracking_capacity(metric, target, capacity, warming)
    assert wanted >= capacity or not warming


@pytest.mark.parametrize(
    "steps",
    [(), (Step(0, 10, 1), Step(5, None, 2)), (Step(0, 10, 1), Step(11, None, 2)), (Step(5, 5, 1),)],
)
def test_steps_that_overlap_or_leave_gaps_are_refused(steps: tuple[Step, ...]) -> None:
    with pytest.raises(PermanentError, match="steps_unusable"):
        Steps(steps)


@pytest.mark.parametrize(("low", "high"), [(-1, 5), (5, 4), (0, 0)])
def test_bounds_that_make_no_sense_are_refused(low: int, high: int) -> None:
    with pytest.raises(PermanentError, match="bounds_unusable"):
        Bounds(low, high)


def test_aws_steps_are_read_as_they_are_written() -> None:
    told = {
        "StepAdjustments": [
            {
                "MetricIntervalLowerBound": 0.0,
                "MetricIntervalUpperBound": 10.0,
                "ScalingAdjustment": 1,
            },
            {"MetricIntervalLowerBound": 10.0, "ScalingAdjustment": 3},
        ],
        "AdjustmentType": "ChangeInCapacity",
        "EstimatedInstanceWarmup": 60,
    }
    assert Steps.from_aws(told) == Steps((Step(0, 10, 1), Step(10, None, 3)), warmup_s=60)
