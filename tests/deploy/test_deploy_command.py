"""``cis deploy`` against an AWS: it shows, then does, and every template stands and goes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner, Result

from cis_tasks.commands.main import app
from cis_tasks.local.emulator import Emulator
from cis_tasks.local.stack import Names
from support.cloud import environment


class Installation:
    """Stacks of names of their own, by the command."""

    def __init__(self, folder: Path) -> None:
        suffix = uuid.uuid4().hex[:8]
        self.stack = f"deployed-{suffix}"
        self.names = Names.unique(suffix).parameters()
        self.file = folder / "parameters.json"
        self.file.write_text(json.dumps({**self.names, "PublisherState": "DISABLED"}))

    def deploy(self, *arguments: str, confirm: str = "") -> Result:
        common = ["deploy", *arguments, "--stack", self.stack, "--parameters", str(self.file)]
        return CliRunner().invoke(app, common, input=confirm, env={"COLUMNS": "200"})

    def status(self, suffix: str = "") -> str | None:
        stacks = boto3.client("cloudformation").describe_stacks()["Stacks"]
        found = {stack["StackName"]: stack["StackStatus"] for stack in stacks}
        status = found.get(self.stack + suffix)
        return None if status == "DELETE_COMPLETE" else status

    def delete(self, suffix: str) -> None:
        cloudformation = boto3.client("cloudformation")
        cloudformation.delete_stack(StackName=self.stack + suffix)
        cloudformation.get_waiter("stack_delete_complete").wait(
            StackName=self.stack + suffix, WaiterConfig={"Delay": 0.2, "MaxAttempts": 100}
        )


@pytest.fixture
def here(emulator: Emulator, tmp_path: Path) -> Iterator[Installation]:
    with environment(emulator.environment):
        yield Installation(tmp_path)


def test_dry_run_shows_every_resource_and_makes_none(here: Installation) -> None:
    told = here.deploy("app", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "would be made" in told.output
    assert "AWS::AutoScaling::AutoScalingGroup" in told.output
    assert here.status() is None


def test_dry_run_names_what_has_to_come_from_stacks_before(here: Installation) -> None:
    told = here.deploy("app", "monitoring", "--dry-run")
    assert told.exit_code == 0, told.output
    assert f"{here.stack}-monitoring needs ScalingTopicArn" in told.output
    alone = here.deploy("monitoring", "--yes")
    assert alone.exit_code == 1
    assert "needs ScalingTopicArn" in str(alone.exception)


def test_who_says_no_changes_nothing(here: Installation) -> None:
    told = here.deploy("app", confirm="n\n")
    assert told.exit_code == 1
    assert here.status() is None


def test_all_parts_stand_are_updated_and_go(here: Installation) -> None:
    parts = ("keys", "network", "app", "monitoring", "web")
    settings = ("--set", "FlowLogs=no", "--yes")  # the emulator knows no flow logs
    told = here.deploy(*parts, *settings)
    assert told.exit_code == 0, told.output
    suffixes = ("-web", "-monitoring", "", "-network", "-keys")
    assert {here.status(suffix) for suffix in suffixes} == {"CREATE_COMPLETE"}

    # Outputs of one became parameters of the next.
    stacks = boto3.client("cloudformation")
    keys = stacks.describe_stacks(StackName=f"{here.stack}-keys")["Stacks"][0]["Outputs"]
    key = next(out["OutputValue"] for out in keys if out["OutputKey"] == "KmsKeyArn")
    given = stacks.describe_stacks(StackName=here.stack)["Stacks"][0]["Parameters"]
    assert {"ParameterKey": "KmsKeyArn", "ParameterValue": key} in [
        {name: parameter[name] for name in ("ParameterKey", "ParameterValue")}
        for parameter in given
    ]

    again = here.deploy("monitoring", "--set", "WaitAlarmSeconds=600", "--yes")
    assert again.exit_code == 0, again.output
    assert "SpineWaitsLong" in again.output
    assert here.status("-monitoring") == "UPDATE_COMPLETE"
    alarm = f"{here.names['GroupPrefixName']}spine-WaitsLong"
    [found] = boto3.client("cloudwatch").describe_alarms(AlarmNames=[alarm])["MetricAlarms"]
    assert found["Threshold"] == 600

    for suffix in suffixes:
        here.delete(suffix)
        assert here.status(suffix) is None


def test_one_pipeline_can_be_left_out(here: Installation) -> None:
    told = here.deploy("--set", "Pipelines=spine", "--yes")
    assert told.exit_code == 0, told.output
    pages = boto3.client("cloudformation").get_paginator("list_stack_resources")
    for name in (here.stack, f"{here.stack}-monitoring"):
        made = [
            resource["LogicalResourceId"]
            for page in pages.paginate(StackName=name)
            for resource in page["StackResourceSummaries"]
        ]
        assert [one for one in made if one.startswith("Spine")]
        assert not [one for one in made if one.startswith("Image")]


def test_later_stacks_know_the_names_of_earlier_ones(here: Installation, tmp_path: Path) -> None:
    script = tmp_path / "cis.sh"
    assert here.deploy("--yes", "--environment", str(script)).exit_code == 0
    assert f"CIS_INPUT_BUCKET={here.names['InputBucketName']}" in script.read_text()
    told = CliRunner().invoke(app, ["deploy", "monitoring", "--stack", here.stack, "--dry-run"])
    assert told.exit_code == 0, told.output
    assert "nothing to change" in told.output


def test_parts_that_do_not_exist_are_named(here: Installation) -> None:
    told = here.deploy("nosuch")
    assert "There is no part 'nosuch'" in str(told.exception)
