"""``cis sweep``, ``cancel``, ``purge`` and ``cost``."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest

from cis_tasks import aws, storage
from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job
from cis_tasks.local.cloud import Cloud
from cis_tasks.manifest import Manifest, Output
from cis_tasks.operations.pace import Pace
from cis_tasks.publish import publish
from support.cloud import eventually
from support.sessions import Scripted, cis, cis_json, scripted_worker, without_lambda


@pytest.fixture
def quiet(cloud: Cloud) -> Cloud:
    without_lambda(cloud)
    return cloud


def record(job: Job, cloud: Cloud, *, seconds: float = 36.0, attempt: int = 1) -> Manifest:
    """Write the record of a job that took so long and wrote a gigabyte."""
    ended = datetime(2026, 11, 3, 12, 0, 0, tzinfo=UTC)
    manifest = Manifest(
        job_id=job.id,
        status="succeeded",
        job=job.to_dict(),
        bucket=cloud.stack.output_bucket,
        outputs={"a": Output(key=f"{job.prefix}a", size=10**9, sha256="")},
        pipeline_version="1",
        started_at=datetime.fromtimestamp(ended.timestamp() - seconds, UTC),
        finished_at=ended,
        worker="w",
        attempt=attempt,
    )
    storage.write_manifest(aws.s3(), cloud.stack.output_bucket, job, manifest)
    storage.point_latest(aws.s3(), cloud.stack.output_bucket, job, manifest)
    return manifest


def test_sweep_queues_what_is_complete_and_unanswered_alone(quiet: Cloud, tmp_path: Path) -> None:
    done, lost = (Scripted(quiet, tmp_path, name).upload() for name in ("done", "lab/lost"))
    record(done.job, quiet)
    Scripted(quiet, tmp_path, "half").put("sensor_data/half.csv", b"{}")
    assert cis_json("sweep")["jobs"] == []  # uploaded just now: it may be queued
    looked = cis_json("sweep", "--older-than", "0s", "--dry-run")
    assert [job["name"] for job in looked["jobs"]] == ["lab/lost"]
    assert quiet.queue_counts()["spine"].waiting == 0
    assert cis_json("sweep", "--older-than", "0s", "--name", "done*")["jobs"] == []
    swept = cis_json("sweep", "--older-than", "0s")
    assert swept == {**looked, "published": True}
    assert swept["jobs"][0]["job_id"] == lost.job.id
    cis("sweep", "--older-than", "0s")  # again, before a worker came
    assert quiet.queue_counts()["spine"].waiting == 1


def test_pace_spaces_what_is_done() -> None:
    now, waits = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        waits.append(seconds)

    pace = Pace(4.0, clock=lambda: now, sleep=sleep)
    for _ in range(3):
        pace.wait()
    now += 10
    pace.wait()  # late: nothing is made up for
    pace.wait()
    assert waits == [0.25, 0.25, 0.25]


def test_a_cancelled_job_is_not_run_when_its_message_comes(quiet: Cloud, tmp_path: Path) -> None:
    session = Scripted(quiet, tmp_path, "s").upload()
    publish(boto3.client("sqs"), quiet.stack.queue_urls["spine"], session.job)
    assert "is cancelled" in cis("cancel", session.job.id).stdout
    for again in ("s", "spine/s", session.job.id):  # changes nothing
        assert session.job.id in cis("cancel", again).stdout
    with scripted_worker(quiet, tmp_path):
        eventually(lambda: sum(vars(quiet.queue_counts()["spine"]).values()) == 0)
    assert session.runs == 0
    [manifest] = session.manifests()
    assert manifest["error"]["code"] == "cancelled"


def test_a_running_job_stops_when_it_is_cancelled(quiet: Cloud, tmp_path: Path) -> None:
    session = Scripted(quiet, tmp_path, "s", sleep_s=120).upload()
    publish(boto3.client("sqs"), quiet.stack.queue_urls["spine"], session.job)
    other = Scripted(quiet, tmp_path, "other").upload()
    with scripted_worker(quiet, tmp_path):
        eventually(lambda: session.runs == 1)
        started = time.monotonic()
        asked = [sys.executable, "-m", "cis_tasks", "cancel", session.job.id]
        subprocess.run(asked, check=True, capture_output=True)
        publish(boto3.client("sqs"), quiet.stack.queue_urls["spine"], other.job)
        eventually(other.manifests)  # the worker is free for it
        assert time.monotonic() - started < 100
        eventually(lambda: sum(vars(quiet.queue_counts()["spine"]).values()) == 0)
    assert session.runs == 1
    assert [m["error"]["code"] for m in session.manifests()] == ["cancelled"]


def test_a_job_that_has_ended_cannot_be_cancelled(quiet: Cloud, tmp_path: Path) -> None:
    job = Scripted(quiet, tmp_path, "s").upload().job
    record(job, quiet)
    with pytest.raises(PermanentError, match="has ended already: succeeded"):
        cis("cancel", job.id)


def test_purge_wants_the_name_and_empties_that_queue_alone(quiet: Cloud, tmp_path: Path) -> None:
    for name in ("a", "b"):
        job = Scripted(quiet, tmp_path, name).upload().job
        publish(boto3.client("sqs"), quiet.stack.queue_urls["spine"], job)
    with pytest.raises(PermanentError, match="Nobody is at the terminal"):
        cis("purge", "spine")
    assert "2 waiting" in cis("purge", "spine", "--dry-run").stdout
    cis("purge", "spine", "--dead-letters", "--yes")
    assert quiet.queue_counts()["spine"].waiting == 2
    name = quiet.stack.queue_urls["spine"].rpartition("/")[2]
    cis("purge", name, "--yes")
    assert quiet.queue_counts()["spine"].waiting == 0
    with pytest.raises(PermanentError, match="no queue of this installation"):
        cis("purge", "another", "--yes")


@pytest.mark.parametrize(("typed", "left"), [("another", 1), (None, 0)])
def test_the_name_has_to_be_typed_at_a_terminal(
    quiet: Cloud, tmp_path: Path, typed: str | None, left: int
) -> None:
    url = quiet.stack.queue_urls["spine"]
    publish(boto3.client("sqs"), url, Scripted(quiet, tmp_path, "a").upload().job)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as terminal, os.fdopen(theirs, "rb") as stdin:
        terminal.write(f"{typed or url.rpartition('/')[2]}\n".encode())
        asked = [sys.executable, "-m", "cis_tasks", "purge", "spine"]
        done = subprocess.run(asked, stdin=stdin, capture_output=True, text=True, check=False)
    assert (done.returncode, "was not typed" in done.stderr) == ((1, True) if left else (0, False))
    assert quiet.queue_counts()["spine"].waiting == left


def test_cost_of_a_job_and_of_a_month(quiet: Cloud, tmp_path: Path) -> None:
    prices = tmp_path / "prices.json"
    free = ("s3_put_per_1000", "s3_get_per_1000", "sqs_per_million", "lambda_per_million")
    paid = {"machine_hour": {"spine": 1.0}, "busy_share": 0.5, "s3_gb_month": 0.25}
    prices.write_text(json.dumps({**dict.fromkeys(free, 0), **paid, "lambda_gb_second": 0}))
    jobs = [Scripted(quiet, tmp_path, name).upload().job for name in ("a", "b")]
    record(jobs[0], quiet, seconds=36)
    record(jobs[1], quiet, seconds=360, attempt=2)
    one = cis_json("cost", jobs[0].id, "--prices", str(prices))
    assert one["machine"] == pytest.approx(0.02)  # 36 s at 1 an hour, half of it idle
    assert one["storage_month"] == pytest.approx(0.25)
    assert one["total"] == pytest.approx(0.27)
    [month] = cis_json("cost", "--prices", str(prices))
    assert (month["month"], month["jobs"], month["retried"]) == ("2026-11", 2, 1)
    assert month["total"] == pytest.approx(0.02 + 0.2 + 0.5)
    assert "2026-11" in cis("cost").stdout  # with our own prices
    assert "together" in cis("cost", jobs[1].id).stdout
    prices.write_text('{"machine_hour": {}}')
    with pytest.raises(PermanentError, match="no file of prices"):
        cis("cost", "--prices", str(prices))
