"""Symptoms of the runbook that one worker shows: each is brought about, and its remedy works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from cis_tasks.broker.owners import HOST_TAG, INSTALLATION_TAG, PID_TAG, SEEN_TAG, STARTED_TAG
from cis_tasks.errors import PermanentError
from cis_tasks.local.cloud import Cloud
from cis_tasks.local.environment import of_worker
from cis_tasks.manifest import Manifest
from support.cloud import MakeCloud, eventually
from support.sessions import Scripted, cis, cis_json, scripted_worker, without_lambda


@pytest.fixture(scope="module")
def place(make_cloud: MakeCloud) -> Iterator[Cloud]:
    """A cloud whose Lambda makes jobs of uploads."""
    with make_cloud() as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("symptoms")


@pytest.fixture(scope="module")
def orphan(place: Cloud) -> str:
    """A control queue of a process that is gone."""
    prefix = place.stack.outputs["ControlPrefix"]
    tags = {INSTALLATION_TAG: prefix, HOST_TAG: "gone", PID_TAG: "1", STARTED_TAG: "1"}
    made = boto3.client("sqs").create_queue(QueueName=f"{prefix}left", tags={**tags, SEEN_TAG: "0"})
    return made["QueueUrl"]


@pytest.fixture(scope="module")
def grown(place: Cloud, folder: Path) -> list[Scripted]:
    """Jobs that were uploaded while no worker ran."""
    return [Scripted(place, folder, f"grown {n}").upload() for n in range(3)]


@pytest.fixture(scope="module")
def found_before(place: Cloud, grown: list[Scripted], orphan: str) -> dict[str, Any]:
    """What is seen before a worker is started, which is the remedy of three symptoms."""
    eventually(lambda: place.queue_counts()["spine"].waiting == len(grown))
    queue = place.stack.queue_urls["spine"].rpartition("/")[2]
    return {
        "status": cis_json("status"),
        "doctor": {one["check"]: one for one in cis_json("doctor", "control")},
        "queue": queue,
    }


@pytest.fixture(scope="module")
def worker(place: Cloud, folder: Path, found_before: dict[str, Any]) -> Iterator[None]:
    with scripted_worker(place, folder, CIS_MAX_ATTEMPTS="1"):
        yield


def test_queue_grows_without_a_worker_and_empties_with_one(
    found_before: dict[str, Any], worker: None, grown: list[Scripted], place: Cloud
) -> None:
    [waiting] = {one["visible"] for one in found_before["status"]["queues"].values()} - {0}
    assert waiting == len(grown)
    eventually(lambda: all(session.manifests() for session in grown))
    eventually(lambda: place.queue_counts()["spine"].waiting == 0)


def test_costs_go_up_by_a_queue_that_somebody_left_until_a_worker_starts(
    found_before: dict[str, Any], worker: None, orphan: str
) -> None:
    finding = found_before["doctor"]["control.orphans"]
    assert orphan.rpartition("/")[2] in finding["what"]
    assert finding["remedy"] == "Start a worker: it deletes them."
    eventually(lambda: not cis_json("doctor", "control"))


def test_a_job_failed_and_a_corrected_upload_is_another_that_succeeds(
    worker: None, place: Cloud, folder: Path
) -> None:
    session = Scripted(place, folder, "failed", bad=True).upload()
    eventually(session.manifests)
    first = session.job.id
    failed = cis_json("status", first)
    assert "script_bad" in json.dumps(failed)
    session.script["bad"] = False
    session.put("sensor_data/failed.csv", json.dumps(session.script).encode())
    eventually(lambda: len(session.manifests()) == 2)
    statuses = {one["job_id"]: one["status"] for one in session.manifests()}
    assert statuses == {first: "failed", session.job.id: "succeeded"}


def test_a_gpu_out_of_memory_is_found_among_dead_letters_and_put_back(
    worker: None, place: Cloud, folder: Path
) -> None:
    session = Scripted(place, folder, "big", fail=3, out_of_memory=True).upload()
    eventually(lambda: place.queue_counts()["spine"].dead == 1)
    [dead] = cis_json("dlq", "list", "--error", "OutOfMemory")
    assert (dead["name"], session.runs) == ("big", 3)  # its queue's three receives
    session.log.write_text("")  # another process has the memory still
    with pytest.raises(PermanentError, match="out of memory"):
        cis("dlq", "redrive", "--error", "OutOfMemory")
    session.log.write_text("\n" * 9)
    eventually(lambda: place.queue_counts()["spine"].dead == 1)
    cis("dlq", "redrive", "--error", "OutOfMemory")
    [manifest] = eventually(session.manifests)
    assert manifest["status"] == "succeeded"
    assert cis_json("dlq", "list") == []


def test_results_come_late_by_waiting_and_another_worker_ends_that(
    worker: None, place: Cloud, folder: Path
) -> None:
    first, second = two_at_once(place, folder, "late")
    assert first.finished_at <= second.started_at  # one waited for the other
    for manifest in (first, second):
        told = cis_json("results", manifest.job_id)
        assert max(told["timings_s"], key=told["timings_s"].get) == "obey"
        assert told["timings_s"]["obey"] >= 2
    with scripted_worker(place, folder, name="second"):
        first, second = two_at_once(place, folder, "sooner")
    assert second.started_at < first.finished_at
    assert first.worker != second.worker


def two_at_once(place: Cloud, folder: Path, name: str) -> list[Manifest]:
    """The records of two jobs of two seconds and a half that came together, by when they began."""
    sessions = [Scripted(place, folder, f"{name}{n}", sleep_s=2.5).upload() for n in range(2)]
    eventually(lambda: all(session.manifests() for session in sessions))
    found = [Manifest(**manifest) for session in sessions for manifest in session.manifests()]
    return sorted(found, key=lambda manifest: manifest.started_at)


def test_flower_is_empty_under_another_prefix_and_hears_workers_under_theirs(
    worker: None, place: Cloud
) -> None:
    def ping(timeout_s: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "celery", "-A", "cis_tasks", "inspect", "ping", "-t", timeout_s],
            env={**of_worker(os.environ, place.environment, 1), **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    deaf = ping("1", CIS_CONTROL_PREFIX="another-")
    assert deaf.returncode != 0
    assert "No nodes replied" in deaf.stdout + deaf.stderr
    heard = ping("5")
    assert heard.returncode == 0, heard.stderr
    assert "pong" in heard.stdout


def test_disaster_recovery_does_what_was_lost_with_the_queue_and_nothing_twice(
    place: Cloud, worker: None, folder: Path
) -> None:
    kept = Scripted(place, folder, "kept").upload()
    eventually(kept.manifests)
    without_lambda(place)  # last of all: what is uploaded now is in no queue
    lost = Scripted(place, folder, "lab 1/lost").upload()
    [swept] = cis_json("sweep", "--older-than", "0s")["jobs"]
    assert (swept["name"], swept["job_id"]) == ("lab 1/lost", lost.job.id)
    [manifest] = eventually(lost.manifests)
    assert (manifest["job_id"], manifest["status"]) == (lost.job.id, "succeeded")
    assert cis_json("sweep", "--older-than", "0s")["jobs"] == []
    assert (kept.runs, lost.runs) == (1, 1)


def test_a_lost_region_comes_back_from_a_replica_of_the_inputs(
    make_cloud: MakeCloud, tmp_path: Path
) -> None:
    with make_cloud() as here:
        without_lambda(here)
        names = {"a", "lab 1/b"}
        for name in names:
            Scripted(here, tmp_path, name).upload()
        s3 = here.client("s3")
        contents = s3.list_objects_v2(Bucket=here.stack.input_bucket)["Contents"]
        keys = [item["Key"] for item in contents]
        source = here.stack.input_bucket
        with make_cloud() as there:
            without_lambda(there)
            for key in keys:
                copied = {"Bucket": source, "Key": key}
                s3.copy_object(Bucket=there.stack.input_bucket, Key=key, CopySource=copied)
            swept = cis_json("sweep", "--older-than", "0s")["jobs"]
            assert {job["name"] for job in swept} == names
            eventually(lambda: there.queue_counts()["spine"].waiting == len(names))
