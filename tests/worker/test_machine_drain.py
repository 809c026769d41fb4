"""Real workers on a laptop fleet whose machines are taken away: nothing is lost, nothing twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from cis_tasks.local.fleet.fleet import stack_parameters
from cis_tasks.local.fleet.instances import Instance
from cis_tasks.worker.drain import DRAIN_HOOK, READY_HOOK, SPOT_RESERVE_S, Metadata, Protection
from support.cloud import MakeCloud, eventually
from support.fleet import Burst, fleet_on

MAX = 3


@pytest.fixture(scope="module")
def fleet(make_cloud: MakeCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Burst]:
    """A group without policies, whose size the tests set; messages of killed workers come soon."""
    parameters = {**stack_parameters("slo", 0, MAX), "VisibilityTimeoutSeconds": "5"}
    with (
        make_cloud(parameters) as cloud,
        fleet_on(cloud, tmp_path_factory.mktemp("drain"), "step") as burst,
    ):
        yield burst


def autoscaling(fleet: Burst) -> Any:
    endpoint = fleet.fleet.environment["AWS_ENDPOINT_URL_AUTO_SCALING"]
    return boto3.client("autoscaling", endpoint_url=endpoint)


def resize(fleet: Burst, count: int) -> None:
    autoscaling(fleet).set_desired_capacity(
        AutoScalingGroupName=fleet.group.name, DesiredCapacity=count
    )


def settle(fleet: Burst, count: int) -> None:
    resize(fleet, count)
    eventually(lambda: fleet.settled(count))


def busy(fleet: Burst) -> list[Instance]:
    """Instances that carry scale-in protection, because they have a job."""
    return [one for one in fleet.fleet.instances("spine") if one.protected]


def busy_one(fleet: Burst, sleep_s: float) -> Instance:
    """Give the fleet one job; the instance that runs it."""
    eventually(lambda: not busy(fleet))
    before = fleet.runs
    fleet.submit(1, sleep_s)
    eventually(lambda: fleet.runs == before + 1 and busy(fleet))
    [instance] = busy(fleet)
    return instance


def log_of(instance: Instance) -> str:
    assert instance.worker is not None
    return instance.worker.log.read_text(errors="replace")


def ended(fleet: Burst) -> bool:
    """Whether every job has exactly one effect."""
    manifests = fleet.manifests()
    return [one["job"]["name"] for one in manifests] == [job.name for job in fleet.jobs]


@pytest.mark.parametrize("notice", ["spot", "rebalance", "terminate"])
def test_a_worker_on_notice_finishes_its_job_and_leaves(fleet: Burst, notice: str) -> None:
    settle(fleet, 1)
    instance, before = busy_one(fleet, 3), fleet.runs
    if notice == "spot":
        fleet.fleet.interrupt(instance, 120)
    elif notice == "rebalance":
        fleet.fleet.advise(instance)
    else:
        autoscaling(fleet).terminate_instance_in_auto_scaling_group(
            InstanceId=instance.id, ShouldDecrementDesiredCapacity=False
        )
    eventually(lambda: instance.gone)
    assert instance.worker is not None
    assert instance.worker.exit_code == 0
    assert f"kind={notice}" in log_of(instance)
    if notice == "terminate":
        assert "operation=record_lifecycle_action_heartbeat" in log_of(instance)
    assert ended(fleet)
    assert fleet.runs == before
    eventually(lambda: fleet.settled(1))  # another has taken its place


def test_a_job_that_outlasts_a_spot_notice_is_given_back_and_run_elsewhere(fleet: Burst) -> None:
    settle(fleet, 1)
    instance, before = busy_one(fleet, 6), fleet.runs
    fleet.fleet.interrupt(instance, SPOT_RESERVE_S + 2)
    eventually(lambda: instance.gone)
    assert "job_given_back" in log_of(instance)
    assert not ended(fleet)
    eventually(lambda: ended(fleet))
    assert fleet.runs == before + 1
    assert fleet.instance_of(fleet.manifests()[-1]) is not instance


def test_scale_in_leaves_the_busy_machine_alone(fleet: Burst) -> None:
    settle(fleet, 2)
    instance, before = busy_one(fleet, 5), fleet.runs
    resize(fleet, 0)
    [idle] = [one for one in fleet.fleet.instances("spine") if one is not instance]
    eventually(lambda: idle.gone)
    assert instance in busy(fleet)
    eventually(lambda: fleet.settled(0))
    assert ended(fleet)
    assert fleet.runs == before
    assert instance.worker is not None
    assert instance.worker.exit_code == 0
    # Protected once and released once: its hooks aside, that is all it told its group.
    told = [line for line in log_of(instance).splitlines() if "group_told" in line]
    protection = [line.partition("ProtectedFromScaleIn=")[2] for line in told]
    assert [text.split()[0] for text in protection if text][-2:] == ["True", "False"]
    assert sum(f"LifecycleHookName={READY_HOOK}" in line for line in told) == 1
    assert any(
        f"LifecycleHookName={DRAIN_HOOK}" in line and "complete_lifecycle_action" in line
        for line in told
    )


def test_a_killed_workers_job_runs_again_on_the_machine_that_replaces_it(fleet: Burst) -> None:
    settle(fleet, 1)
    instance, before = busy_one(fleet, 4), fleet.runs
    assert instance.worker is not None
    os.killpg(instance.worker.pid, signal.SIGKILL)
    eventually(lambda: instance.gone)
    eventually(lambda: ended(fleet))
    assert fleet.runs == before + 1
    assert fleet.instance_of(fleet.manifests()[-1]) is not instance
    assert "its worker ended with -9" in instance.why


def test_metadata_are_read_with_a_token_of_the_machine_alone(fleet: Burst) -> None:
    settle(fleet, 1)
    [instance] = fleet.fleet.instances("spine")
    server = fleet.fleet.environment["AWS_ENDPOINT_URL_AUTO_SCALING"]
    metadata = Metadata(f"{server}/{instance.id}")
    assert metadata.get("instance-id") == instance.id
    assert metadata.get("spot/instance-action") is None
    metadata._token = "run out"
    assert metadata.notice(0.0, 1.0) is None
    with pytest.raises(OSError, match="refused"):
        Metadata("http://127.0.0.1:1").get("instance-id")


def test_protection_comes_at_once_and_goes_after_a_hold() -> None:
    fresh = Protection(on=None, needed_s=100.0)
    assert fresh.change(busy=True, now_s=100.0, hold_s=20.0) is True
    held = Protection(on=True, needed_s=100.0)
    assert held.change(busy=True, now_s=101.0, hold_s=20.0) is None
    assert held.change(busy=False, now_s=119.0, hold_s=20.0) is None
    assert held.change(busy=False, now_s=120.0, hold_s=20.0) is False
    assert Protection(on=False, needed_s=100.0).change(busy=False, now_s=999.0, hold_s=20.0) is None
