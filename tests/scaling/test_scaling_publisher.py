"""Publisher, Lambda, beat and commands on a real SQS, CloudWatch and Auto Scaling API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cis_tasks.errors import PermanentError, SettingsError
from cis_tasks.local.cloud import Cloud
from scaling.backlog import Reading
from scaling.group import read_group
from scaling.metrics import MAX_DATUMS, NAMESPACE, put
from scaling.policy import Floor
from scaling.publisher import Publisher
from scaling.reader import Clients, Reader, Watched
from scaling.service import ServiceTimes
from scaling.settings import floors, policy_for, watched
from support.cloud import eventually

NAMED = {"CIS_SCALING_GROUP_SPINE": "g", "CIS_QUEUE_URL_SPINE": "u"}
SLO = {"CIS_SCALING_POLICY": "slo", "CIS_SCALING_WAIT_S": "60"}


@pytest.fixture
def clients(cloud: Cloud) -> Clients:
    return Clients.make()


@pytest.fixture
def spine(cloud: Cloud, clients: Clients) -> Watched:
    """The spine's queue and its group, which has one instance."""
    group = cloud.stack.groups["spine"]
    clients.autoscaling.set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=1)
    return Watched("spine", cloud.stack.queue_urls["spine"], group, service_s=20.0, boot_s=30.0)


def send(url: str, count: int) -> None:
    for number in range(count):
        boto3.client("sqs").send_message(
            QueueUrl=url,
            MessageBody="1",
            MessageGroupId=str(number),
            MessageDeduplicationId=str(number),
        )


def published(spine: Watched) -> dict[str, float]:
    """Newest value of each metric of the queue and the group."""
    cloudwatch = boto3.client("cloudwatch")
    dimensions = [{"Name": "Queue", "Value": spine.queue}, {"Name": "Group", "Value": spine.group}]
    found = {}
    now = datetime.now(UTC)
    for metric in cloudwatch.list_metrics(Namespace=NAMESPACE, Dimensions=dimensions)["Metrics"]:
        got = cloudwatch.get_metric_statistics(
            Namespace=NAMESPACE,
            MetricName=metric["MetricName"],
            Dimensions=dimensions,
            StartTime=now - timedelta(minutes=5),
            EndTime=now + timedelta(minutes=1),
            Period=600,
            Statistics=["Maximum"],
        )
        found[metric["MetricName"]] = max(point["Maximum"] for point in got["Datapoints"])
    return found


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_what_the_queue_and_the_group_look_like_is_published(
    spine: Watched, clients: Clients
) -> None:
    send(spine.queue_url, 3)
    clients.sqs.receive_message(QueueUrl=spine.queue_url, WaitTimeSeconds=5)
    Publisher([spine], clients).tick()
    assert published(spine) == {
        "BacklogPerInstance": 2,
        "OutstandingPerInstance": 3,
        "EstimatedDrainSeconds": 60,
        "HasBacklogWithoutCapacity": 0,
        "Visible": 2,
        "InFlight": 1,
        "DesiredInstances": 1,
        "InServiceInstances": 1,
        "PendingInstances": 0,
        "AtMaximum": 0,
    }  # and no age, which nobody knows here: unknown is not zero


def test_backlog_without_a_machine_is_published_without_a_division_by_zero(
    spine: Watched, clients: Clients
) -> None:
    boto3.client("autoscaling").update_auto_scaling_group(
        AutoScalingGroupName=spine.group, MinSize=0, DesiredCapacity=0
    )
    boto3.client("autoscaling").set_desired_capacity(
        AutoScalingGroupName=spine.group, DesiredCapacity=0
    )
    send(spine.queue_url, 4)
    (reading,) = Publisher([spine], clients).tick()
    assert reading.in_service == 0
    found = published(spine)
    assert (found["BacklogPerInstance"], found["HasBacklogWithoutCapacity"]) == (4, 1)
    assert "EstimatedDrainSeconds" not in found


def test_missed_reading_is_not_published_as_zero(
    spine: Watched, clients: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = replace(spine, queue_url=f"{spine.queue_url}.gone.fifo")
    assert Publisher([gone], clients).tick() == []
    assert published(gone) == {}
    (event,) = events(capsys.readouterr().out)
    assert event["event"] == "unread"
    assert "queue_missing" in event["error"]


def test_one_queue_that_is_missing_does_not_hide_the_other(
    spine: Watched, clients: Clients
) -> None:
    gone = replace(spine, group="no-such-group")
    assert len(Publisher([gone, spine], clients).tick()) == 1
    assert published(spine)["Visible"] == 0


def test_group_that_is_missing_is_named(spine: Watched, clients: Clients) -> None:
    with pytest.raises(PermanentError, match="no-such-group") as refused:
        Reader(replace(spine, group="no-such-group"), clients).read()
    assert refused.value.code == "group_missing"


class Refusing:
    """CloudWatch or Auto Scaling that refuse to change anything."""

    def __init__(self, client: Any, call: str) -> None:
        self._client, self._call = client, call

    def __getattr__(self, name: str) -> Any:
        if name != self._call:
            return getattr(self._client, name)

        def refuse(**_: object) -> None:
            error = {"Code": "AccessDenied", "Message": "not you"}
            raise ClientError({"Error": error}, name)  # type: ignore[typeddict-item]

        return refuse


def test_aws_errors_are_logged_and_the_next_tick_works(
    spine: Watched, clients: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    send(spine.queue_url, 40)
    refused = replace(
        clients,
        cloudwatch=Refusing(clients.cloudwatch, "put_metric_data"),
        autoscaling=Refusing(clients.autoscaling, "set_desired_capacity"),
    )
    publisher = Publisher([spine], refused, policy=policy_for(SLO))
    assert len(publisher.tick()) == 1
    assert len(publisher.tick()) == 1
    told = events(capsys.readouterr().out)
    assert [event["event"] for event in told] == ["unscaled", "unpublished"] * 2
    assert all("scaling_refused" in event["error"] for event in told)


def test_slo_sets_the_capacity_and_says_why(
    spine: Watched, clients: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    send(spine.queue_url, 20)
    Publisher([spine], clients, policy=policy_for(SLO)).tick()
    group = read_group(clients.autoscaling, spine.group)
    assert 5 <= group.desired <= 20
    assert group.decision.startswith("20 waiting")
    (event,) = events(capsys.readouterr().out)
    assert (event["event"], event["desired"]) == ("scaled", group.desired)


def test_maximum_that_holds_work_up_is_said_and_published(
    spine: Watched, clients: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    clients.autoscaling.update_auto_scaling_group(AutoScalingGroupName=spine.group, MaxSize=1)
    send(spine.queue_url, 9)
    Publisher([spine], clients, policy=policy_for(SLO)).tick()
    (event,) = events(capsys.readouterr().out)
    assert (event["event"], event["max"]) == ("at_maximum", 1)
    assert published(spine)["AtMaximum"] == 1
    assert read_group(clients.autoscaling, spine.group).desired == 1


def test_alarms_and_policies_without_slo_are_left_to_aws(spine: Watched, clients: Clients) -> None:
    send(spine.queue_url, 20)
    Publisher([spine], clients, policy=policy_for({"CIS_SCALING_POLICY": "step"})).tick()
    assert read_group(clients.autoscaling, spine.group).desired == 1


def test_metrics_go_out_in_as_few_calls_as_cloudwatch_allows(clients: Clients) -> None:
    datum = {"MetricName": "Many", "Value": 1.0}
    assert put(clients.cloudwatch, [datum] * MAX_DATUMS) == 1
    assert put(clients.cloudwatch, []) == 0


def test_service_times_are_learned_from_manifests(cloud: Cloud) -> None:
    s3, bucket = boto3.client("s3"), cloud.stack.output_bucket
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    for number, (status, seconds) in enumerate(
        [("succeeded", 10), ("succeeded", 30), ("failed", 1)]
    ):
        manifest = {
            "status": status,
            "started_at": begun.isoformat(),
            "finished_at": (begun + timedelta(seconds=seconds)).isoformat(),
        }
        key = f"spine/s{number}/id/manifest.json"
        s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(manifest).encode())
    s3.put_object(Bucket=bucket, Key="spine/s9/id/manifest.json", Body=b"{}")
    assert ServiceTimes(s3, bucket, "spine").mean_s() == 20
    assert ServiceTimes(s3, bucket, "image").mean_s() is None


def test_lambda_publishes_from_the_template_alone(cloud: Cloud, spine: Watched) -> None:
    send(spine.queue_url, 2)
    name = cloud.stack.outputs["ScalingFunctionName"]
    answer = boto3.client("lambda").invoke(FunctionName=name, Payload=b"{}")
    assert json.loads(answer["Payload"].read()) == {"ticks": 1}
    assert eventually(lambda: published(spine).get("Visible")) == 2


@pytest.fixture
def beat(cloud: Cloud, spine: Watched) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "cis_tasks", "beat", "--loglevel", "INFO"],
        env={**os.environ, "CIS_BEAT_EVERY_S": "1"},
        cwd=cloud.state,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()
    process.wait()


def test_beat_publishes_by_itself_and_not_through_the_queue(
    beat: subprocess.Popen[str], spine: Watched, clients: Clients
) -> None:
    assert eventually(lambda: published(spine).get("InServiceInstances")) == 1
    counts = clients.sqs.get_queue_attributes(QueueUrl=spine.queue_url, AttributeNames=["All"])
    assert counts["Attributes"]["ApproximateNumberOfMessages"] == "0"


def cis(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cis_tasks", "scaling", *arguments],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_daemon_publishes_until_it_is_told_to_stop(spine: Watched) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cis_tasks", "scaling", "publish", "--every", "1"], env=os.environ
    )
    try:
        eventually(lambda: published(spine).get("InServiceInstances"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()


def test_explain_says_why_there_are_as_many_machines_as_there_are(
    spine: Watched, clients: Clients
) -> None:
    send(spine.queue_url, 7)
    Publisher([spine], clients).tick()
    found = json.loads(cis("explain", "spine", "--json", "--policy", "slo").stdout)[0]
    assert found["group"] == spine.group
    assert found["reading"]["visible"] == 7
    assert "7 waiting" in found["why"]
    assert found["decision"]["desired"] >= 1
    alarms = {alarm["name"].rpartition("-")[2] for alarm in found["alarms"]}
    assert alarms == {"BacklogHigh", "OutstandingLow"}
    assert len(found["policies"]) == 2
    plain = cis("explain")
    assert plain.returncode == 0
    assert spine.group in plain.stdout


def test_explain_without_a_group_says_what_to_set(spine: Watched) -> None:
    del os.environ["CIS_SCALING_GROUP_SPINE"]
    told = cis("explain", "spine")
    assert told.returncode == 1
    assert "CIS_SCALING_GROUP_<PIPELINE>" in told.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"CIS_SCALING_GROUP_SPINE": "g"},
        {"CIS_SCALING_GROUP_SPINE": "g", "CIS_QUEUE_URL_SPINE": "u", "CIS_SCALING_BOOT_S": "soon"},
        {
            "CIS_SCALING_GROUP_SPINE": "g",
            "CIS_QUEUE_URL_SPINE": "u",
            "CIS_SCALING_SLOTS_SPINE": "0",
        },
        {
            "CIS_SCALING_GROUP_IMAGE": "g",
            "CIS_QUEUE_URL_IMAGE": "u",
            "CIS_SCALING_SLOTS_IMAGE": ".5",
        },
    ],
)
def test_environment_that_makes_no_sense_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        watched(variables)


@pytest.mark.parametrize(
    "variables",
    [
        {"CIS_SCALING_POLICY": "best"},
        {**SLO, "CIS_SCALING_WAIT_S": "0"},
        {**SLO, "CIS_SCALING_BUDGET_PER_HOUR": "0.1"},
        {**SLO, "CIS_SCALING_PRICE_PER_HOUR": "-1"},
        {**SLO, "CIS_SCALING_FLOORS": "two at noon"},
        {**SLO, "CIS_SCALING_FLOORS": "2@7-25"},
    ],
)
def test_policy_that_makes_no_sense_is_refused_before_work_begins(
    variables: dict[str, str],
) -> None:
    with pytest.raises((SettingsError, PermanentError)):
        policy_for(variables)


def test_simulate_compares_policies_and_draws_them(spine: Watched, tmp_path: Any) -> None:
    picture = tmp_path / "day.svg"
    workload = ("--workload", "poisson", "--hours", "1", "--jobs", "200")
    told = cis("simulate", *workload, "--json", "--plot", str(picture), "--max", "5")
    assert {one["policy"] for one in json.loads(told.stdout)} == {"step", "target", "slo"}
    assert picture.stat().st_size > 1_000
    refused = cis("simulate", "--workload", str(tmp_path / "none.csv"))
    assert refused.returncode == 1
    assert "trace_unreadable" in refused.stderr
    burst = ("--workload", "at-once", "--jobs", "100", "--wait", "200")
    found = cis("simulate", *burst, "--policy", "slo", "--find", "--json")
    assert json.loads(found.stdout)["slo"][0]["meets"] is True


def test_scheduled_minimums_come_from_the_environment() -> None:
    assert floors("") == ()
    assert floors("2@7-19 mon-fri; 1@22.5-6; 3@0-24 sat-sun; 4@8-9 wed; 5@8-9 sat-mon") == (
        Floor(2, 7, 19, frozenset(range(5))),
        Floor(1, 22.5, 6),
        Floor(3, 0, 24, frozenset({5, 6})),
        Floor(4, 8, 9, frozenset({2})),
        Floor(5, 8, 9, frozenset({5, 6, 0})),
    )
    make = policy_for({**SLO, "CIS_SCALING_FLOORS": "3@0-24"})
    assert make is not None
    idle = Reading(time_s=0, visible=0, in_flight=0, in_service=0, desired=0, min=0, max=9)
    assert make(idle).decide([idle]).desired == 3
