"""From an alarm to the scaling topic: the rule, the function, and what people get by mail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from cfnlint.decode import cfn_yaml

from cis_tasks.local.cloud import Cloud
from support.cloud import eventually
from support.topics import Subscriber

ROOT = Path(__file__).parents[2]
EVENT = json.loads((ROOT / "tests/events/alarm_state_change.json").read_text())


def resources(template: str) -> dict[str, Any]:
    found: dict[str, Any] = cfn_yaml.load(str(ROOT / "deploy" / template))["Resources"]
    return found


@pytest.fixture(scope="module")
def monitored(cloud_of_module: Cloud) -> Cloud:
    """A cloud with the stack of alarms beside it."""
    stack = cloud_of_module.stack
    given = {
        "GroupPrefixName": stack.groups["spine"].removesuffix("spine"),
        "ScalingLambdaName": stack.outputs["ScalingFunctionName"],
        "ScalingTopicArn": stack.outputs["ScalingTopicArn"],
        "AlarmEmail": "ops@example.org",
    }
    cloudformation, name = boto3.client("cloudformation"), f"{stack.name}-monitoring"
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=(ROOT / "deploy/monitoring.yaml").read_text(),
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 100}
    )
    return cloud_of_module


def test_an_alarm_comes_to_the_topic_through_rule_and_function(monitored: Cloud) -> None:
    programs = Subscriber(
        monitored.stack.outputs["ScalingTopicArn"], "programs", {"kind": ["alarm_changed"]}
    )
    name = f"{monitored.stack.groups['spine']}-BacklogHigh"
    source = accept_from_here(monitored)
    for alarm in ("of-somebody-else", name):
        detail = {**EVENT["detail"], "alarmName": alarm}
        entry = {
            "Source": source,
            "DetailType": EVENT["detail-type"],
            "Detail": json.dumps(detail),
        }
        boto3.client("events").put_events(Entries=[entry])
    [told] = eventually(programs.hear, 60)
    assert (told["alarm"], told["state"], told["pipeline"]) == (name, "ALARM", "spine")


def accept_from_here(monitored: Cloud) -> str:
    """Let the rule take a source that PutEvents takes; AWS's own it refuses from anybody else."""
    events, name = boto3.client("events"), f"{monitored.stack.name}-monitoring"
    [rule] = [one for one in events.list_rules()["Rules"] if one["Name"].startswith(name)]
    pattern = {**json.loads(rule["EventPattern"]), "source": ["here"]}
    events.put_rule(Name=rule["Name"], EventPattern=json.dumps(pattern))
    return "here"


def test_mail_is_cloudwatchs_own_message_alone(monitored: Cloud) -> None:
    """So that it comes even where the publisher is what fails, and not twice."""
    sns, topic = boto3.client("sns"), monitored.stack.outputs["ScalingTopicArn"]
    [mail] = [
        one
        for one in sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
        if one["Protocol"] == "email"
    ]
    assert mail["Endpoint"] == "ops@example.org"
    written = resources("monitoring.yaml")["Email"]["Properties"]
    likewise = Subscriber(topic, "mail", written["FilterPolicy"], written["FilterPolicyScope"])
    sns.publish(TopicArn=topic, Message='{"AlarmName": "CloudWatch\'s own"}')
    kind = {"kind": {"DataType": "String", "StringValue": "alarm_changed"}}
    sns.publish(TopicArn=topic, Message='{"kind": "alarm_changed"}', MessageAttributes=kind)
    assert eventually(likewise.hear, 30) == [{"AlarmName": "CloudWatch's own"}]


@pytest.mark.parametrize("template", ["template.yaml", "monitoring.yaml", "web.yaml"])
def test_the_rule_hears_of_every_alarm_of_ours(template: str) -> None:
    rule = resources("monitoring.yaml")["AlarmChanges"]["Properties"]["EventPattern"]
    patterns = [one["prefix"] for one in rule["detail"]["alarmName"]]
    prefixes = tuple(one.get("Fn::Sub") or "${" + one["Ref"] + "}" for one in patterns)
    names = [
        one["Properties"]["AlarmName"]["Fn::Sub"]
        for one in resources(template).values()
        if one["Type"] == "AWS::CloudWatch::Alarm"
    ]
    assert names
    assert [name for name in names if not name.startswith(prefixes)] == []
