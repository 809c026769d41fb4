"""Alarms evaluated from their documents on a real CloudWatch API, and what they do."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest

from cis_tasks.errors import PermanentError
from cis_tasks.local.emulator import Emulator
from cis_tasks.local.fleet.actions import Actions, Policy
from cis_tasks.local.fleet.alarms import Look, Watch, compute, concerns
from cis_tasks.local.fleet.groups import Group, Plan
from cis_tasks.local.fleet.instances import Instance, Lifecycle
from scaling.alarms import State
from support.cloud import environment

PERIOD_S = 10
NOW_S = (time.time() // PERIOD_S) * PERIOD_S
ARN = "arn:aws:autoscaling:us-east-1:0:scalingPolicy:1:autoScalingGroupName/g:policyName/p"


@pytest.fixture
def cloudwatch(emulator: Emulator) -> Iterator[Any]:
    with environment(emulator.environment):
        yield boto3.client("cloudwatch")


def document(**changes: Any) -> dict[str, Any]:
    """An alarm on a metric that no other test has."""
    return {
        "AlarmName": "a",
        "Namespace": uuid.uuid4().hex,
        "MetricName": "Backlog",
        "Dimensions": [{"Name": "Group", "Value": "g"}],
        "Statistic": "Average",
        "Period": PERIOD_S,
        "EvaluationPeriods": 1,
        "DatapointsToAlarm": 1,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
        "AlarmActions": [ARN],
        **changes,
    }


def put(
    cloudwatch: Any, alarm: dict[str, Any], *values: float | None, group: str = "g", name: str = ""
) -> None:
    """Publish one value for each of the newest full periods, the last one being the newest."""
    for age, value in enumerate(reversed(values)):
        if value is None:
            continue
        datum = {
            "MetricName": name or alarm["MetricName"],
            "Dimensions": [{"Name": "Group", "Value": group}],
            "Timestamp": datetime.fromtimestamp(NOW_S - (age + 1) * PERIOD_S + 1, UTC),
            "Value": value,
            "StorageResolution": 1,
        }
        cloudwatch.put_metric_data(Namespace=alarm["Namespace"], MetricData=[datum])


def state(cloudwatch: Any, alarm: dict[str, Any], before: State = State.OK) -> State:
    return Watch.from_aws(alarm).look(cloudwatch, NOW_S, before).state


def test_an_alarm_reads_its_own_dimensions_alone(cloudwatch: Any) -> None:
    alarm = document()
    put(cloudwatch, alarm, 50.0, group="another")
    assert state(cloudwatch, alarm) is State.INSUFFICIENT_DATA
    put(cloudwatch, alarm, 0.0)
    assert state(cloudwatch, alarm) is State.OK
    put(cloudwatch, alarm, 8.0)  # the average of both is 4
    assert state(cloudwatch, alarm) is State.ALARM


def test_a_period_that_is_not_over_does_not_count(cloudwatch: Any) -> None:
    alarm = document()
    put(cloudwatch, alarm, 0.0)
    look = Watch.from_aws(alarm).look(cloudwatch, NOW_S - 1, State.OK)
    assert look.value is None


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("missing", State.INSUFFICIENT_DATA),
        ("notBreaching", State.OK),
        ("breaching", State.ALARM),
        ("ignore", State.OK),
    ],
)
def test_missing_data_count_as_the_document_says(
    cloudwatch: Any, missing: str, expected: State
) -> None:
    assert state(cloudwatch, document(TreatMissingData=missing)) is expected


def test_a_metric_that_flaps_sets_off_no_alarm_that_wants_it_steady(cloudwatch: Any) -> None:
    flapping = (5.0, 0.0, 5.0, 0.0, 5.0)
    nervous, steady = document(), document(EvaluationPeriods=3, DatapointsToAlarm=3)
    for alarm in (nervous, steady):
        put(cloudwatch, alarm, *flapping)
    assert state(cloudwatch, nervous) is State.ALARM
    assert state(cloudwatch, steady) is State.OK
    assert state(cloudwatch, {**steady, "DatapointsToAlarm": 2}) is State.ALARM


def queries(alarm: dict[str, Any], expression: str) -> dict[str, Any]:
    """The alarm on an expression of two metrics."""
    kept = {key: alarm[key] for key in alarm.keys() - {"MetricName", "Dimensions", "Statistic"}}
    stats = [
        {
            "Id": id_,
            "ReturnData": False,
            "MetricStat": {
                "Metric": {
                    "Namespace": alarm["Namespace"],
                    "MetricName": name,
                    "Dimensions": alarm["Dimensions"],
                },
                "Period": PERIOD_S,
                "Stat": "Maximum",
            },
        }
        for id_, name in (("jobs", "Visible"), ("machines", "InService"))
    ]
    return {**kept, "Metrics": [*stats, {"Id": "e", "Expression": expression}]}


def test_metric_math_divides_without_a_publisher_and_survives_zero_instances(
    cloudwatch: Any,
) -> None:
    alarm = document()
    put(cloudwatch, alarm, 12.0, name="Visible")
    put(cloudwatch, alarm, 3.0, name="InService")
    look = Watch.from_aws(queries(alarm, "jobs / machines")).look(cloudwatch, NOW_S, State.OK)
    assert (look.state, look.value) == (State.ALARM, 4.0)
    empty = document()
    put(cloudwatch, empty, 12.0, name="Visible")
    put(cloudwatch, empty, 0.0, name="InService")
    assert state(cloudwatch, queries(empty, "jobs / machines")) is State.INSUFFICIENT_DATA


def test_metric_math_fills_what_nobody_published(cloudwatch: Any) -> None:
    alarm = document()
    put(cloudwatch, alarm, 12.0, name="Visible")
    assert state(cloudwatch, queries(alarm, "jobs / machines")) is State.INSUFFICIENT_DATA
    assert state(cloudwatch, queries(alarm, "jobs / FILL(machines, 1)")) is State.ALARM


@pytest.mark.parametrize(
    "expression", ["ANOMALY_DETECTION_BAND(jobs)", "jobs +", "jobs if 1 else 2"]
)
def test_math_that_is_not_evaluated_is_refused_when_the_alarm_is_read(expression: str) -> None:
    with pytest.raises(PermanentError, match="does not evaluate"):
        Watch.from_aws(queries(document(), expression))


def test_an_expression_is_arithmetic_and_nothing_more() -> None:
    assert compute("-(a + 2) * 3 / b", {"a": 1.0, "b": 2.0}) == -4.5
    with pytest.raises(PermanentError):
        compute("__import__('os').getpid()", {})


def test_alarms_of_other_groups_are_no_concern() -> None:
    alarm = document(Dimensions=[])
    assert concerns(alarm, ["g"])  # by its action
    assert concerns(document(AlarmActions=[]), ["g"])  # by its metric
    assert concerns({**queries(document(), "jobs"), "AlarmActions": []}, ["g"])
    assert not concerns(document(), ["h"])


# ---------------------------------------------------------------------- actions


def group(in_service: int, pending: int = 0, *, limits: tuple[int, int] = (0, 10)) -> Group:
    made = Group("g", no_worker, boot_s=0, shutdown_s=1, tell=lambda _: None)
    for number in range(in_service + pending):
        up = number < in_service
        now_s = time.time()
        made.instances.append(
            Instance(
                "g",
                "us-east-1a",
                now_s - 100,
                state=Lifecycle.IN_SERVICE if up else Lifecycle.PENDING,
                in_service_s=now_s - 90 if up else None,
            )
        )
    made.plan = Plan(in_service + pending, *limits, ("us-east-1a",))
    return made


def no_worker(instance: Instance) -> Any:
    raise AssertionError(f"{instance.id} was not to boot")


def step(change: int, **more: Any) -> Policy:
    bound = "MetricIntervalLowerBound" if change > 0 else "MetricIntervalUpperBound"
    return Policy.from_aws(
        {
            "PolicyARN": ARN,
            "PolicyName": "p",
            "AutoScalingGroupName": "g",
            "PolicyType": "StepScaling",
            "AdjustmentType": "ChangeInCapacity",
            "StepAdjustments": [{bound: 0, "ScalingAdjustment": change}],
            **more,
        }
    )


def look(value: float = 5.0, state: State = State.ALARM) -> Look:
    return Look(Watch.from_aws(document()), state, State.OK, value)


def desired(group: Group, policy: Policy, seen: Look, actions: Actions | None = None) -> int | None:
    change = (actions or Actions(again_s=60)).decide(group, [seen], {ARN: policy}, NOW_S)
    return change.desired if change else None


def test_an_alarm_that_stays_on_acts_again_only_after_its_time() -> None:
    actions, policies = Actions(again_s=60), {ARN: step(+1)}
    given = [actions.decide(group(1), [look()], policies, NOW_S + at) for at in (0, 59, 60)]
    assert [change.desired if change else None for change in given] == [2, None, 2]
    assert actions.decide(group(1), [look(state=State.OK)], policies, NOW_S + 61) is None
    assert actions.decide(group(1), [look()], policies, NOW_S + 62) is not None  # anew


def test_instances_that_warm_up_hold_back_growth_and_all_shrinking() -> None:
    slow = step(+1, EstimatedInstanceWarmup=1000)
    assert desired(group(1, pending=1), step(+1), look()) == 2
    assert desired(group(2), slow, look()) == 2  # both still warm up
    assert desired(group(2), step(-1), look(0.5)) == 1
    assert desired(group(2, pending=1), step(-1), look(0.5)) == 3


def test_a_simple_policy_waits_for_its_cooldown() -> None:
    policy = Policy.from_aws(
        {
            "PolicyARN": ARN,
            "PolicyName": "p",
            "AutoScalingGroupName": "g",
            "PolicyType": "SimpleScaling",
            "ScalingAdjustment": 2,
        },
        default_cooldown_s=300,
    )
    actions = Actions(again_s=1)
    given = [actions.decide(group(1), [look()], {ARN: policy}, NOW_S + at) for at in (0, 299, 300)]
    assert [change.desired if change else None for change in given] == [3, None, 3]


def test_the_maximum_holds_and_is_said() -> None:
    change = Actions(again_s=60).decide(group(4, limits=(0, 4)), [look()], {ARN: step(+1)}, NOW_S)
    assert change is not None
    assert (change.desired, change.wanted) == (4, 5)
    assert "the maximum is 4" in change.reason


def test_target_tracking_removes_only_where_it_may_and_starts_nothing_from_zero() -> None:
    policy = replace(step(+1), steps=None, target=5.0)
    assert desired(group(2), policy, look(12.0)) == 5
    assert desired(group(4), policy, look(2.0)) == 2
    assert desired(group(4), replace(policy, scale_in=False), look(2.0)) == 4
    assert desired(group(0), policy, look(100.0)) == 0


def test_of_several_alarms_the_largest_capacity_counts() -> None:
    other = replace(step(-1), arn=f"{ARN}2")
    low = Look(
        replace(Watch.from_aws(document(AlarmName="low")), actions=(other.arn,)),
        State.ALARM,
        State.OK,
        0.5,
    )
    change = Actions(again_s=60).decide(
        group(3), [low, look()], {ARN: step(+1), other.arn: other}, NOW_S
    )
    assert change is not None
    assert change.desired == 4
    assert math.isclose(low.beyond, -0.5)
