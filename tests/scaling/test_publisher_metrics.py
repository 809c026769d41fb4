"""How the publisher itself fares: to Prometheus from the daemon, to CloudWatch from the Lambda."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from typing import Any

import boto3
import pytest

from cis_tasks.local.cloud import Cloud
from cis_tasks.local.emulator import free_port
from cis_tasks.local.environment import of_worker
from scaling.handler import handler
from support.cloud import eventually, forget


@pytest.fixture
def variables(cloud: Cloud) -> Mapping[str, str]:
    """One group that can be read and has a machine, and one that is not there."""
    boto3.client("autoscaling").set_desired_capacity(
        AutoScalingGroupName=cloud.stack.groups["spine"], DesiredCapacity=1
    )
    url = cloud.stack.queue_urls["spine"]
    boto3.client("sqs").send_message(
        QueueUrl=url, MessageBody="1", MessageGroupId="1", MessageDeduplicationId="1"
    )
    return {
        "CIS_SCALING_GROUP_SPINE": cloud.stack.groups["spine"],
        "CIS_SCALING_GROUP_IMAGE": "no-such-group",
        "CIS_SCALING_TICKS": "2",
        "CIS_SCALING_EVERY_S": "0.1",
    }


def page(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            return str(reply.read().decode())
    except OSError:
        return ""


def test_prometheus_reads_what_the_daemon_sees_and_what_it_could_not(
    cloud: Cloud, variables: Mapping[str, str]
) -> None:
    port = free_port()
    options = ["scaling", "publish", "--every", "1", "--metrics-port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "cis_tasks", *options],
        env={**of_worker(os.environ, cloud.environment, 1), **variables},
        stdout=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: "cis_scaling_tick_seconds_count 2.0\n" in page(port))
        lines = page(port).splitlines()
    finally:
        process.terminate()
        process.wait(30)
    assert process.returncode == 0
    assert 'cis_scaling_visible{pipeline="spine"} 1.0' in lines
    assert 'cis_scaling_has_backlog_without_capacity{pipeline="spine"} 0.0' in lines
    assert not [line for line in lines if 'pipeline="image"' in line]  # unknown is not zero
    [unread] = [
        line for line in lines if line.startswith('cis_scaling_events_total{event="unread"')
    ]
    assert float(unread.split()[1]) >= 2
    assert 'cis_scaling_events_total{event="unpublished"} 0.0' in lines


def test_cloudwatch_reads_a_line_of_each_tick(
    variables: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {**variables, "CIS_EMF": "true"}.items():
        monkeypatch.setenv(name, value)
    forget()
    handler({}, None)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ticks: list[dict[str, Any]] = [line for line in lines if "_aws" in line]
    assert len(ticks) == 2
    for tick in ticks:
        [directive] = tick["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], directive["Dimensions"]) == ("CIS", [["Component"]])
        assert {metric["Name"] for metric in directive["Metrics"]} <= tick.keys()
        assert (tick["Component"], tick["Readings"], tick["Unread"]) == ("publisher", 1, 1)
        assert (tick["Unpublished"], tick["Scaled"]) == (0, 0)
    monkeypatch.undo()
    forget()


def test_without_being_asked_it_writes_none(
    variables: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget()
    handler({}, None)
    assert "_aws" not in capsys.readouterr().out
    monkeypatch.undo()
    forget()
