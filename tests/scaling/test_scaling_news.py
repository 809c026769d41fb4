"""Decisions and alarms on the scaling topic: one form, and what subscriptions can filter by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest

from cis_tasks.local.cloud import Cloud
from cis_tasks.notifications import FORM
from scaling.handler import handler
from scaling.news import AlarmChanged
from support.cloud import eventually, forget
from support.topics import Subscriber

TESTS = Path(__file__).parents[1]
SCHEMA = json.loads((TESTS.parent / "docs/notifications.schema.json").read_text())
EVENT = json.loads((TESTS / "events/alarm_state_change.json").read_text())


@pytest.fixture
def topic(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The stack's scaling topic, which the publisher's environment names."""
    arn = cloud.stack.outputs["ScalingTopicArn"]
    for name, value in {
        "CIS_TOPIC_SCALING": arn,
        "CIS_SCALING_GROUP_SPINE": cloud.stack.groups["spine"],
        "CIS_SCALING_POLICY": "slo",
        "CIS_SCALING_TICKS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    forget()
    yield arn
    forget()


def backlog(cloud: Cloud, count: int) -> None:
    ids = [str(number) for number in range(count)]
    for start in range(0, count, 10):
        entries = [
            {"Id": i, "MessageBody": "{}", "MessageGroupId": i, "MessageDeduplicationId": i}
            for i in ids[start : start + 10]
        ]
        boto3.client("sqs").send_message_batch(
            QueueUrl=cloud.stack.queue_urls["spine"], Entries=entries
        )


def changed(name: str, state: str = "ALARM") -> dict[str, Any]:
    event: dict[str, Any] = json.loads(json.dumps(EVENT))
    event["detail"]["alarmName"] = name
    event["detail"]["state"]["value"] = state
    return event


def hold_to_schema(told: dict[str, Any]) -> None:
    """It is of the documented form, and says nothing beside it."""
    jsonschema.validate(told, SCHEMA)
    assert told.keys() <= type(FORM.validate_python(told)).model_fields.keys()


def test_a_decision_is_told_once_with_its_reason(cloud: Cloud, topic: str) -> None:
    grown = Subscriber(topic, "grown", {"kind": ["capacity_set"], "direction": ["out"]})
    shrunk = Subscriber(topic, "shrunk", {"kind": ["capacity_set"], "direction": ["in"]})
    backlog(cloud, 20)
    for _ in range(2):  # the second finds nothing to change
        handler({}, None)
    [told] = eventually(grown.hear)
    hold_to_schema(told)
    group = cloud.stack.groups["spine"]
    wanted = boto3.client("autoscaling").describe_auto_scaling_groups(
        AutoScalingGroupNames=[group]
    )["AutoScalingGroups"][0]["DesiredCapacity"]
    assert (told["group"], told["pipeline"], told["policy"]) == (group, "spine", "slo")
    assert told["desired"] == wanted > told["before"]
    assert "20 waiting" in told["reason"]
    assert len(grown.hear()) == 1
    assert shrunk.hear() == []


def test_alarms_are_told_by_state_and_pipeline(cloud: Cloud, topic: str) -> None:
    spine = Subscriber(topic, "spine", {"kind": ["alarm_changed"], "pipeline": ["spine"]})
    over = Subscriber(topic, "over", {"kind": ["alarm_changed"], "state": ["OK"]})
    group = cloud.stack.groups["spine"]
    assert handler(changed(f"{group}-BacklogHigh"), None) == {"told": 1}
    handler(changed("CIS-Undelivered", "OK"), None)
    [told] = eventually(spine.hear)
    hold_to_schema(told)
    assert (told["alarm"], told["before"], told["state"]) == (
        f"{group}-BacklogHigh",
        "OK",
        "ALARM",
    )
    assert told["at"] == "2026-11-02T17:04:40.989000Z"
    assert told["description"].startswith("As many jobs wait")
    [other] = eventually(over.hear)
    hold_to_schema(other)
    assert other["alarm"] == "CIS-Undelivered"
    assert "pipeline" not in other


def test_without_a_topic_nobody_is_told(
    cloud: Cloud, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CIS_TOPIC_SCALING")
    subscriber = Subscriber(topic, "all")
    assert handler(EVENT, None) == {"told": 0}
    assert subscriber.hear() == []


def test_a_topic_that_refuses_costs_no_decision(
    cloud: Cloud, topic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIS_TOPIC_SCALING", f"{topic}-that-is-not-there")
    backlog(cloud, 20)
    assert handler({}, None) == {"ticks": 1}
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events == ["scaled", "untold"]


@pytest.mark.parametrize(
    ("alarm", "pipeline"),
    [
        ("CIS-spine-AtMaximum", "spine"),
        ("TargetTracking-CIS-image-AlarmHigh-1f", "image"),
        ("CIS-spine2-AtMaximum", None),
        ("CIS-UploadErrors", None),
    ],
)
def test_the_pipeline_of_an_alarm_is_that_of_its_group(alarm: str, pipeline: str | None) -> None:
    groups = {"spine": "CIS-spine", "image": "CIS-image"}
    assert AlarmChanged.of(changed(alarm), groups).pipeline == pipeline
