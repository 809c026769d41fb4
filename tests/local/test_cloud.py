"""The laptop cloud as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest

from cis_tasks.local.cloud import Cloud, QueueCounts, start
from cis_tasks.local.emulator import INVOCATIONS, Emulator, health
from cis_tasks.local.errors import CloudError
from cis_tasks.local.stack import Names
from cis_tasks.local.workers import State
from support.cloud import MakeCloud, environment, eventually, gone

AWS = Path(sys.executable).with_name("aws")


def upload_pair(cloud: Cloud, name: str) -> None:
    s3 = cloud.client("s3")
    for key in (f"sensor_data/{name}.csv", f"video_footage/{name}.mp4"):
        s3.put_object(Bucket=cloud.stack.input_bucket, Key=key, Body=b"not a recording")


def test_upload_of_both_halves_becomes_one_message(cloud: Cloud) -> None:
    upload_pair(cloud, "session 1+2%41é")
    eventually(lambda: cloud.queue_counts()["spine"].waiting)
    assert cloud.queue_counts()["spine"] == QueueCounts(waiting=1, running=0, dead=0)


def test_a_burst_of_uploads_takes_turns_and_none_is_dropped(cloud: Cloud) -> None:
    for number in range(24):
        upload_pair(cloud, f"burst-{number}")
    most = 0

    def all_in() -> bool:
        nonlocal most
        most = max(most, processes_of(cloud.stack.function))
        return cloud.queue_counts()["spine"].waiting == 24

    eventually(all_in, every_s=0.05)
    assert 0 < most <= INVOCATIONS


def processes_of(function: str) -> int:
    """How many processes the emulator has for a Lambda function."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found += f"ministack-lambda-{function}-".encode() in path.read_bytes()
    return found


def test_given_endpoint_is_used_and_its_stack_left_standing(
    emulator: Emulator, tmp_path: Path
) -> None:
    with environment(emulator.environment):
        with start(state=tmp_path, workers=0, names=Names.unique("left")) as cloud:
            assert cloud.emulator is None
            assert cloud.endpoint == emulator.endpoint
            assert cloud.healthy()
        assert not (tmp_path / "emulator.log").exists()
        found = boto3.client("cloudformation").describe_stacks(StackName=cloud.stack.name)
    assert found["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE"


def test_clouds_on_one_emulator_do_not_see_each_other(make_cloud: MakeCloud) -> None:
    with make_cloud() as first, make_cloud() as second:
        upload_pair(first, "a")
        eventually(lambda: first.queue_counts()["spine"].waiting == 1)
        assert second.queue_counts()["spine"].waiting == 0


def test_whole_cloud_comes_up_tells_about_itself_and_goes(tmp_path: Path) -> None:
    told: list[str] = []
    with environment({}), start(state=tmp_path, workers=1, tell=told.append) as cloud:
        worker, _ = cloud.workers
        assert cloud.emulator
        pids = [*(one.pid for one in cloud.workers), cloud.emulator.pid]
        assert cloud.healthy()
        assert cloud.worker_states() == {"spine-1": State.READY, "image-2": State.READY}
        assert (
            cloud.environment.items()
            >= {
                "AWS_ENDPOINT_URL": cloud.endpoint,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "CIS_INPUT_BUCKET": "cis-data-input",
                "CIS_OUTPUT_BUCKET": "cis-data-output",
            }.items()
        )
        upload_pair(cloud, "a")
        eventually(lambda: "calibrate_spine" in worker.log.read_text().partition(" ready.")[2])
        worker.kill()  # its job is not what this test is about
    assert all(gone(pid) for pid in pids if pid)
    assert not health(cloud.endpoint)
    assert not cloud.healthy()
    for part in (cloud.endpoint, "cis-data-input", str(worker.log), "stopping the embedded AWS"):
        assert any(part in line for line in told), part
    assert not [line for line in told if "\n" in line]
    left = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.*")}
    assert left == {"emulator.log", "workers/spine-1.log", "workers/image-2.log"}


def test_shell_finds_the_cloud_through_its_script(cloud: Cloud) -> None:
    shell = (
        f". {cloud.script} && echo hello"
        f' | {AWS} s3 cp - "s3://$CIS_INPUT_BUCKET/sensor_data/a b.csv"'
    )
    clean = {"PATH": os.environ["PATH"], "HOME": str(cloud.state)}
    subprocess.run(["sh", "-c", shell], env=clean, check=True)
    found = cloud.client("s3").get_object(
        Bucket=cloud.stack.input_bucket, Key="sensor_data/a b.csv"
    )
    assert found["Body"].read() == b"hello\n"


def test_worker_that_fails_takes_the_rest_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with environment({}):
        monkeypatch.setenv("CIS_TIME_LIMIT_S", "-1")
        with (
            pytest.raises(CloudError, match="CIS_TIME_LIMIT_S"),
            start(state=tmp_path, tell=told.append),
        ):
            pytest.fail("it came up")
    (endpoint,) = [word for line in told for word in line.split() if urlsplit(word).port]
    assert not health(endpoint)


def test_error_in_the_block_takes_everything_down(tmp_path: Path) -> None:
    with (
        environment({}),
        pytest.raises(ZeroDivisionError),
        start(state=tmp_path, workers=0) as cloud,
    ):
        raise ZeroDivisionError
    assert not health(cloud.endpoint)
    assert not cloud.script.exists()


def test_proxies_and_profiles_of_the_user_are_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with environment({}):
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of another AWS")
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9")
        with start(state=tmp_path, workers=1) as cloud:
            worker, _ = cloud.workers
            upload_pair(cloud, "a")
            eventually(lambda: "calibrate_spine" in worker.log.read_text().partition(" ready.")[2])
            for one in cloud.workers:
                one.kill()
