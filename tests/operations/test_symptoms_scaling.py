"""*Nothing scales* and *the queue grows* of the runbook: what the doctor says, and it helps."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest

from cis_tasks.local.cloud import Cloud
from scaling.handler import handler
from support.cloud import MakeCloud, forget
from support.sessions import cis, cis_json


@pytest.fixture
def place(make_cloud: MakeCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A stack whose spine group the environment names; nobody publishes."""
    with make_cloud({"PublisherState": "DISABLED", "MinInstances": "0"}) as made:
        monkeypatch.setenv("CIS_GROUPS", made.stack.groups["spine"])
        monkeypatch.setenv("CIS_SCALING_GROUP_SPINE", made.stack.groups["spine"])
        monkeypatch.setenv("CIS_SCALING_TICKS", "1")
        forget()
        yield made
    monkeypatch.undo()
    forget()


def wait_in(place: Cloud, count: int) -> None:
    sqs, url = boto3.client("sqs"), place.stack.queue_urls["spine"]
    for number in range(count):
        ids = {"MessageGroupId": str(number), "MessageDeduplicationId": str(number)}
        sqs.send_message(QueueUrl=url, MessageBody="{}", **ids)


def troubles() -> set[str]:
    code = 1 if any(one["level"] == "error" for one in findings()) else 0
    cis("doctor", "scaling", code=code)
    return {one["check"] for one in findings()}


def findings() -> list[dict[str, str]]:
    from cis_tasks.operations.doctor.examination import run

    return [finding.to_dict() for finding in run(["scaling"])]


def desired(place: Cloud) -> int:
    named = [place.stack.groups["spine"]]
    told = boto3.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=named)
    return int(told["AutoScalingGroups"][0]["DesiredCapacity"])


def test_nothing_scales_as_nobody_publishes_until_somebody_does(place: Cloud) -> None:
    assert troubles() == {"scaling.freshness"}
    cis("scaling", "publish", "--once")
    assert troubles() == set()


def test_nothing_scales_with_a_maximum_of_none_until_it_is_raised(
    place: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    autoscaling, group = boto3.client("autoscaling"), place.stack.groups["spine"]
    monkeypatch.setenv("CIS_SCALING_POLICY", "slo")
    monkeypatch.setenv("CIS_SCALING_GROUP_IMAGE", place.stack.groups["image"])
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=group, MinSize=0, MaxSize=0)
    wait_in(place, 4)
    handler({}, None)  # which the other group does not suffer from
    assert '"event": "undecided"' in capsys.readouterr().out
    assert "scaling.group" in troubles()
    assert desired(place) == 0
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=group, MaxSize=3)
    forget()
    handler({}, None)
    assert troubles() == set()
    assert desired(place) > 0


def test_the_queue_grows_at_the_maximum_and_more_machines_may_come(
    place: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    autoscaling, group = boto3.client("autoscaling"), place.stack.groups["spine"]
    monkeypatch.setenv("CIS_SCALING_POLICY", "slo")
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=group, MinSize=0, MaxSize=1)
    wait_in(place, 30)
    for _ in range(2):
        handler({}, None)
    assert desired(place) == 1
    assert '"event": "at_maximum"' in capsys.readouterr().out
    [explained] = cis_json("scaling", "explain", "spine", "--policy", "slo")
    assert "30" in explained["decision"]["reason"]
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=group, MaxSize=20)
    handler({}, None)
    assert desired(place) > 1
