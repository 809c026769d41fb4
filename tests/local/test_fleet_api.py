"""The Auto Scaling API of a laptop fleet, as boto3 sees it; no machine of these tests boots."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cis_tasks.local.errors import CloudError
from cis_tasks.local.fleet.fleet import Options, Pace, stack_parameters, start
from cis_tasks.local.fleet.instances import Lifecycle
from scaling.group import read_activities, set_desired
from scaling.reader import Clients, Reader, Watched
from support.cloud import MakeCloud, eventually
from support.fleet import QUICK, Burst, fleet_on

NEVER_BOOTS = replace(QUICK, boot_s=3_600)


@pytest.fixture
def fleet(make_cloud: MakeCloud, tmp_path: Path) -> Iterator[Burst]:
    with (
        make_cloud(stack_parameters("step", 2, 3)) as cloud,
        fleet_on(cloud, tmp_path, "step", NEVER_BOOTS) as burst,
    ):
        eventually(lambda: len(burst.group.present) == 2)
        yield burst


@pytest.fixture
def autoscaling(fleet: Burst) -> Any:
    return boto3.client("autoscaling", endpoint_url=endpoint(fleet))


def endpoint(fleet: Burst) -> str:
    return fleet.fleet.environment["AWS_ENDPOINT_URL_AUTO_SCALING"]


def test_instances_that_start_are_read_as_pending(fleet: Burst, autoscaling: Any) -> None:
    clients = replace(Clients.make(), autoscaling=autoscaling)
    url = fleet.cloud.stack.queue_urls["spine"]
    reading, group = Reader(Watched("spine", url, fleet.group.name), clients).read()
    assert (reading.in_service, reading.pending, reading.desired) == (0, 2, 2)
    assert reading.backlog_per_instance == 0
    assert group.max == 3
    [first, _] = read_activities(autoscaling, fleet.group.name)
    assert first.description.startswith("Launching a new EC2 instance: i-")
    assert (first.status, first.ended) == ("InProgress", None)


def test_capacity_beyond_the_limits_is_refused(fleet: Burst, autoscaling: Any) -> None:
    for count in (1, 4):
        with pytest.raises(ClientError, match="outside the limits"):
            autoscaling.set_desired_capacity(
                AutoScalingGroupName=fleet.group.name, DesiredCapacity=count
            )
    set_desired(autoscaling, fleet.group.name, 3, "three are better")
    eventually(lambda: len(fleet.group.present) == 3)
    assert fleet.group.reason == "three are better"


def test_scale_in_honours_protection(fleet: Burst, autoscaling: Any) -> None:
    set_desired(autoscaling, fleet.group.name, 3, "more")
    eventually(lambda: len(fleet.group.present) == 3)
    kept = [one.id for one in fleet.group.present[:2]]
    autoscaling.set_instance_protection(
        AutoScalingGroupName=fleet.group.name, InstanceIds=kept, ProtectedFromScaleIn=True
    )
    set_desired(autoscaling, fleet.group.name, 2, "fewer")
    eventually(lambda: len(fleet.group.present) == 2)
    found = autoscaling.describe_auto_scaling_instances(InstanceIds=kept)["AutoScalingInstances"]
    assert {one["InstanceId"] for one in found} == set(kept)
    assert {one["ProtectedFromScaleIn"] for one in found} == {True}


def test_hooks_and_instances_that_are_not_there_are_refused(fleet: Burst, autoscaling: Any) -> None:
    group, [instance, _] = fleet.group.name, fleet.group.present
    with pytest.raises(ClientError, match="No active Lifecycle Action"):
        autoscaling.complete_lifecycle_action(
            AutoScalingGroupName=group,
            InstanceId=instance.id,
            LifecycleHookName="ready",
            LifecycleActionResult="CONTINUE",
        )
    with pytest.raises(ClientError, match="not part of Auto Scaling group"):
        autoscaling.record_lifecycle_action_heartbeat(
            AutoScalingGroupName=group, InstanceId="i-0", LifecycleHookName="drain"
        )


def test_an_instance_that_is_terminated_before_its_boot_is_gone_and_replaced(
    fleet: Burst, autoscaling: Any
) -> None:
    [instance, _] = fleet.group.present
    autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=instance.id, ShouldDecrementDesiredCapacity=False
    )
    assert instance.state is Lifecycle.TERMINATED
    eventually(lambda: len(fleet.group.present) == 2)


def test_metadata_want_a_token(fleet: Burst) -> None:
    [instance, other] = fleet.group.present
    server = fleet.fleet._server
    url = f"{endpoint(fleet)}/{instance.id}/latest/meta-data/instance-id"
    token = server.issue_token(other.id)
    for headers in ({}, {"X-aws-ec2-metadata-token": token}):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(urllib.request.Request(url, headers=headers))


def test_groups_of_another_machine_are_left_to_it(fleet: Burst) -> None:
    elsewhere = {"AWS_ENDPOINT_URL": "https://autoscaling.eu-central-1.amazonaws.com"}
    cloud = replace(fleet.cloud, environment={**fleet.cloud.environment, **elsewhere})
    with (
        pytest.raises(CloudError, match="start machines themselves"),
        start(cloud, fleet.fleet.options),
    ):
        pass


def test_nonsense_is_refused_before_anything_starts() -> None:
    with pytest.raises(CloudError, match="at least 5 and at most 4"):
        stack_parameters("step", 5, 4)
    with pytest.raises(CloudError, match="no scaling policy 'stepp'"):
        Options("stepp")
    with pytest.raises(CloudError, match="No fleet can run"):
        Pace(boot_s=-1)
