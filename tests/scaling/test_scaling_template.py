"""The template scales by the very numbers that the policies are made of."""

from __future__ import annotations

from typing import Any

import pytest
from cfnlint.decode import cfn_yaml

from cis_tasks.local.stack import template
from scaling.alarmed import METRICS, step_policy, target_policy
from scaling.alarms import Alarm
from scaling.handler import handler
from scaling.metrics import NAMESPACE
from scaling.package import HANDLER
from scaling.slo import SloPolicy
from scaling.steps import Steps

TEMPLATE = cfn_yaml.load(str(template()))
RESOURCES = TEMPLATE["Resources"]
TITLES = ("Spine", "Image")


def default(name: str) -> Any:
    return TEMPLATE["Parameters"][name]["Default"]


def resolved(value: Any) -> Any:
    """A value of the template where it refers to a parameter: its default."""
    if isinstance(value, dict) and set(value) == {"Ref"} and value["Ref"] in TEMPLATE["Parameters"]:
        return default(value["Ref"])
    if isinstance(value, dict):
        return {key: resolved(inner) for key, inner in value.items()}
    return [resolved(inner) for inner in value] if isinstance(value, list) else value


def properties(name: str) -> Any:
    return resolved(RESOURCES[name]["Properties"])


@pytest.mark.parametrize("title", TITLES)
def test_step_is_the_policy_step(title: str) -> None:
    policy = step_policy()
    for watch, steps, action in (
        (policy.out, policy.out_steps, "ScaleOut"),
        (policy.inward, policy.in_steps, "ScaleIn"),
    ):
        alarm = properties(f"{title}{watch.name}")
        assert Alarm.from_aws(alarm) == watch.alarm
        assert alarm["MetricName"] == watch.metric
        assert Steps.from_aws(properties(f"{title}{action}")) == steps
        assert alarm["AlarmActions"] == [{"Ref": f"{title}{action}"}]
        assert RESOURCES[f"{title}{watch.name}"]["Condition"] == f"{title}IsStep"


@pytest.mark.parametrize("title", TITLES)
def test_target_is_the_policy_target(title: str) -> None:
    policy = target_policy()
    tracking = properties(f"{title}Tracking")
    assert tracking["TargetTrackingConfiguration"]["TargetValue"] == policy.target
    assert tracking["EstimatedInstanceWarmup"] == policy.warmup_s
    metric = tracking["TargetTrackingConfiguration"]["CustomizedMetricSpecification"]
    assert metric["MetricName"] == policy.high.metric == policy.low.metric
    zero = properties(f"{title}{policy.zero.name}")
    assert Alarm.from_aws(zero) == policy.zero.alarm
    assert zero["MetricName"] == policy.zero.metric
    assert Steps.from_aws(properties(f"{title}FromZero")) == policy.zero_steps


def test_slo_has_the_goal_of_the_policy_slo() -> None:
    policy = SloPolicy(step_policy().limits)
    assert default("WaitGoalSeconds") == policy.wait_s
    assert default("InstancePricePerHour") == policy.price_per_hour


def test_groups_have_the_original_bounds() -> None:
    bounds = step_policy().limits.bounds
    assert (default("MinInstances"), default("MaxInstances")) == (bounds.min, bounds.max) == (1, 20)
    for title in TITLES:
        group = RESOURCES[f"{title}Group"]["Properties"]
        assert (group["MinSize"], group["MaxSize"]) == (
            {"Ref": "MinInstances"},
            {"Ref": "MaxInstances"},
        )


def test_every_alarm_watches_what_the_publisher_publishes() -> None:
    alarms = {n: r["Properties"] for n, r in RESOURCES.items() if r["Type"].endswith("::Alarm")}
    for name, alarm in alarms.items():
        title = next(title for title in TITLES if name.startswith(title))
        assert alarm["Namespace"] == NAMESPACE
        assert alarm["MetricName"] in METRICS
        assert alarm["Dimensions"] == [
            {"Name": "Queue", "Value": {"Fn::GetAtt": [f"{title}Queue", "QueueName"]}},
            {"Name": "Group", "Value": {"Ref": f"{title}Group"}},
        ]
        Alarm.from_aws(resolved(alarm))  # refuses what CloudWatch would refuse


def test_missing_readings_scale_nothing() -> None:
    for name, resource in RESOURCES.items():
        if not resource["Type"].endswith("::Alarm"):
            continue
        assert resource["Properties"]["TreatMissingData"] == "notBreaching", name


def test_machines_that_go_are_given_time_for_their_job() -> None:
    for title in TITLES:
        hook = properties(f"{title}DrainHook")
        assert hook["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING"
        assert hook["HeartbeatTimeout"] >= 600
    actions = {
        action
        for statement in RESOURCES["WorkerRole"]["Properties"]["Policies"][0]["PolicyDocument"][
            "Statement"
        ]
        for action in statement["Action"]
    }
    assert {
        "autoscaling:CompleteLifecycleAction",
        "autoscaling:RecordLifecycleActionHeartbeat",
        "autoscaling:SetInstanceProtection",
    } <= actions


def test_publisher_runs_the_handler_of_its_package() -> None:
    function = RESOURCES["ScalingFunction"]["Properties"]
    assert function["Handler"] == f"{HANDLER}.{handler.__name__}"
    assert function["Code"]["S3Key"] == {"Ref": "ScalingCodeKey"}
