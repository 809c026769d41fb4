"""Alarms, as CloudWatch's documentation says that they behave."""

from __future__ import annotations

import pytest

from cis_tasks.errors import PermanentError
from scaling.alarms import Alarm, Missing, State, evaluate

MISSING: tuple[Missing, ...] = ("missing", "ignore", "breaching", "notBreaching")
OK, ALARM, UNKNOWN = State.OK, State.ALARM, State.INSUFFICIENT_DATA
KEEPS = None
"""The state that the alarm was in."""


def alarm(m: int, n: int, missing: Missing = "missing") -> Alarm:
    return Alarm("GreaterThanThreshold", 5.0, 60, n, m, missing)


def points(drawn: str) -> list[float | None]:
    """Datapoints as AWS draws them: 0 is within the threshold, X beyond, - missing."""
    return [{"0": 1.0, "X": 9.0, "-": None}[mark] for mark in drawn.split()]


@pytest.mark.parametrize(
    ("drawn", "m", "expected"),
    [
        # alarms-and-missing-data.html, the table for 3 of 3 …
        ("0 - X - X", 3, (OK, OK, OK, OK)),
        ("- - - - 0", 3, (OK, OK, OK, OK)),
        ("- - - - -", 3, (UNKNOWN, KEEPS, ALARM, OK)),
        ("0 X X - X", 3, (ALARM, ALARM, ALARM, ALARM)),
        ("- - X - -", 3, (ALARM, KEEPS, ALARM, OK)),
        # … and the one for 2 of 3.
        ("0 - X - X", 2, (ALARM, ALARM, ALARM, ALARM)),
        ("0 0 X 0 X", 2, (ALARM, ALARM, ALARM, ALARM)),
        ("0 - X - -", 2, (OK, OK, ALARM, OK)),
        ("- - - - 0", 2, (OK, OK, ALARM, OK)),
        ("- - - X -", 2, (ALARM, KEEPS, ALARM, OK)),
    ],
)
def test_missing_data_is_treated_as_in_the_tables_of_aws(
    drawn: str, m: int, expected: tuple[State | None, ...]
) -> None:
    for missing, state in zip(MISSING, expected, strict=True):
        for before in (OK, ALARM):
            found = evaluate(alarm(m, 3, missing), points(drawn), before)
            assert found == (before if state is KEEPS else state), (missing, before)


def test_three_missing_datapoints_are_filled_only_as_often_as_they_are_needed() -> None:
    # AWS's table for 3 of 3 fills two of "- - - - 0", which are then not enough to alarm.
    assert evaluate(alarm(3, 3, "breaching"), points("- - - - 0"), OK) is OK


def test_one_fresh_breach_alone_does_not_alarm_early() -> None:
    assert evaluate(alarm(3, 3), points("- - - - X"), OK) is OK


@pytest.mark.parametrize("m", [1, 2, 3])
def test_m_of_n_datapoints_must_breach(m: int) -> None:
    for breaching in range(4):
        drawn = "0 0 " + " ".join("X" * breaching + "0" * (3 - breaching))
        assert (evaluate(alarm(m, 3), points(drawn), OK) is ALARM) == (breaching >= m)


def test_datapoints_before_the_evaluation_range_do_not_count() -> None:
    assert evaluate(alarm(1, 1, "missing"), points("X X X X X - - -"), OK) is UNKNOWN


@pytest.mark.parametrize(
    ("comparison", "at", "above"),
    [
        ("GreaterThanThreshold", False, True),
        ("GreaterThanOrEqualToThreshold", True, True),
        ("LessThanThreshold", False, False),
        ("LessThanOrEqualToThreshold", True, False),
    ],
)
def test_comparisons_differ_at_the_threshold(comparison: str, at: bool, above: bool) -> None:
    made = Alarm(comparison, 5.0, 60)
    assert (made.breaches(5.0), made.breaches(5.1)) == (at, above)


@pytest.mark.parametrize(
    ("statistic", "datapoint"),
    [("Average", 2.0), ("Maximum", 3.0), ("Minimum", 1.0), ("Sum", 6.0), ("SampleCount", 3)],
)
def test_a_period_becomes_one_datapoint(statistic: str, datapoint: float) -> None:
    made = Alarm.from_aws({**alarm(1, 1).to_aws(), "Statistic": statistic})
    assert made.datapoint([1.0, 2.0, 3.0]) == datapoint
    assert made.datapoint([]) is None


def test_aws_gives_back_what_it_was_told() -> None:
    assert Alarm.from_aws(alarm(2, 3, "ignore").to_aws()) == alarm(2, 3, "ignore")


def test_alarm_without_m_wants_all_datapoints() -> None:
    told = {k: v for k, v in alarm(1, 3).to_aws().items() if k != "DatapointsToAlarm"}
    assert Alarm.from_aws(told) == alarm(3, 3)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"Threshold": float("nan")},
        {"Period": 0},
        {"Period": 45},
        {"Period": -60},
        {"DatapointsToAlarm": 4},
        {"EvaluationPeriods": 0, "DatapointsToAlarm": 0},
        {"ComparisonOperator": "AboutEqual"},
    ],
)
def test_nonsense_is_refused_when_the_alarm_is_made(nonsense: dict[str, object]) -> None:
    with pytest.raises(PermanentError, match="alarm_unusable"):
        Alarm.from_aws({**alarm(2, 3).to_aws(), **nonsense})
