"""``cis`` as people type it, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cis_tasks.local.cloud import Cloud
from cis_tasks.local.emulator import health
from cis_tasks.local.environment import of_worker
from cis_tasks.local.workers import Worker
from support.cloud import eventually


def cis(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", "cis_tasks", *arguments],
        env={name: value for name, value in environment.items() if value},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def worker(cloud: Cloud, tmp_path: Path) -> Worker:
    environment = {
        **of_worker(os.environ, cloud.environment, 1),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    queue = "CIS_Data_load_in_fifo.fifo"
    made = Worker(
        "w", queue, environment=environment, folder=tmp_path / "w", app="support.scripted"
    )
    made.await_ready()
    yield made
    made.kill()


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    sensors, video = tmp_path / "s1.csv", tmp_path / "s1.mp4"
    sensors.write_text(json.dumps({"runs": str(tmp_path / "runs")}))
    video.write_bytes(b"video")
    return [str(sensors), str(video)]


def test_help_lists_the_commands() -> None:
    done = cis("--help")
    assert done.returncode == 0
    jobs, machines, files = ("submit", "status", "results"), ("worker", "flower"), ("spine", "rig")
    for command in ("up", "demo", "sample", *jobs, *machines, *files):
        assert f" {command} " in done.stdout


def test_submit_wait_status_and_results(worker: Worker, files: list[str], tmp_path: Path) -> None:
    done = cis("submit", *files, "--wait", "--param", "k=[1]")
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout
    told = json.loads(cis("status", "s1", "--json").stdout)
    assert told["phase"] == "succeeded"
    assert told["manifest"]["result"]["params"] == {"k": [1]}
    listed = cis("status").stdout
    assert told["job_id"] in listed
    assert "CIS_Data_load_in_fifo.fifo" in listed
    done = cis("results", told["job_id"], "--to", str(tmp_path / "got"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got/answer.txt").read_text() == "42\n"


def test_submit_gives_an_id_to_follow(worker: Worker, files: list[str]) -> None:
    job_id = json.loads(cis("submit", *files, "--json").stdout)["job_id"]
    told = eventually(
        lambda: (found := json.loads(cis("status", job_id, "--json").stdout))["manifest"] and found
    )
    assert told["manifest"]["job_id"] == job_id


def test_a_failed_job_exits_1_and_says_why(
    worker: Worker, files: list[str], tmp_path: Path
) -> None:
    Path(files[0]).write_text(json.dumps({"runs": str(tmp_path / "runs"), "bad": True}))
    done = cis("submit", *files, "--wait")
    assert done.returncode == 1
    assert "script_bad" in done.stdout
    assert "Write a good one." in done.stdout
    assert cis("results", "s1").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "missing.csv", "missing.mp4"], "missing.csv is not a file with content"),
        (["submit", "a.csv"], "needs video_footage too"),
        (["submit", "a.csv", "b.csv"], "are both sensor_data"),
        (["submit", "a.doc"], "ending"),
        (["submit", "s3://b", "s3://b/v.mp4"], "ending"),
        (["submit", "a.csv", "a.mp4", "--pipeline", "nope"], "no pipeline called 'nope'"),
        (["status", "nobody"], "No job called 'nobody'"),
        (["worker", "nope"], "no pipeline called 'nope'"),
    ],
)
def test_mistakes_are_told_in_one_line(cloud: Cloud, arguments: list[str], said: str) -> None:
    done = cis(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_region_the_message_says_what_to_set(cloud: Cloud) -> None:
    done = cis("status", AWS_REGION="", AWS_DEFAULT_REGION="")
    assert done.returncode == 1
    assert "AWS_DEFAULT_REGION" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_queue_is_told_with_what_to_set(cloud: Cloud) -> None:
    done = cis("status", CIS_QUEUE_URL_SPINE="")
    assert done.returncode == 1
    assert "CIS_QUEUE_URL_SPINE" in done.stderr


def test_an_id_that_nobody_started_is_unknown_not_an_error(cloud: Cloud) -> None:
    job_id = "00000000-0000-0000-0000-000000000000"
    done = cis("status", job_id)
    assert done.returncode == 0
    assert "waits in its queue, or there is no such job" in done.stdout


def test_sample_writes_a_session(tmp_path: Path) -> None:
    done = cis("sample", str(tmp_path / "made"), "--duration", "4", "--session", "x")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "made").rglob("*") if path.is_file()}
    assert names == {"x.csv", "x.json", "x.mp4"}
    assert cis("sample", str(tmp_path), "--duration", "0").returncode == 1


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_up_brings_the_cloud_up_and_takes_it_down_when_asked(
    tmp_path: Path, kind: signal.Signals
) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_ENDPOINT", "CIS_"))}
    log, script = tmp_path / "log", tmp_path / "state/environment.sh"
    with log.open("w") as out:
        up = subprocess.Popen(
            [sys.executable, "-m", "cis_tasks", "up", "--state", str(tmp_path / "state")],
            env={**kept, "COLUMNS": "200"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: "Ctrl-C stops everything" in log.read_text() or up.poll() is not None)
        asked = f'. {script} && cis status --json && echo "$AWS_ENDPOINT_URL"'
        shell = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, check=True)
        told, _, endpoint = shell.stdout.strip().rpartition("\n")
        assert json.loads(told)["queues"]["CIS_Data_load_in_fifo.fifo"]["visible"] == 0
        up.send_signal(kind)
        assert up.wait(60) == 0, log.read_text()
    finally:
        up.kill()
    assert not script.exists()
    assert not health(endpoint)
    assert "worker spine-1 ready" in log.read_text()
    assert "web tier at http://127.0.0.1:" in log.read_text()
