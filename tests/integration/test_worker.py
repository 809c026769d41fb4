"""Real worker processes on a real SQS API, with a model that does what its input says."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from celery import chain, group

import cis_tasks
from cis_tasks.errors import PermanentError
from cis_tasks.local.cloud import Cloud
from cis_tasks.local.environment import of_worker
from cis_tasks.local.workers import Worker
from cis_tasks.manifest import Answer
from lambda_trigger.handler import handler
from support.cloud import eventually

StartWorker = Callable[..., Worker]
VISIBILITY_S = 4


@pytest.fixture
def start_worker(cloud: Cloud, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers with the scripted model, on queues whose messages come back soon."""
    sqs = boto3.client("sqs")
    for url in cloud.stack.queue_urls.values():
        attributes = {"VisibilityTimeout": str(VISIBILITY_S)}
        sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)
    started: list[Worker] = []

    def start(**variables: str) -> Worker:
        environment = {
            **of_worker(os.environ, cloud.environment, 1),
            "CIS_RETRY_BACKOFF_S": "0.2",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **variables,
        }
        worker = Worker(
            f"w{len(started)}",
            "CIS_Data_load_in_fifo.fifo",
            environment=environment,
            folder=tmp_path / "workers",
            app="support.scripted",
        )
        started.append(worker)
        worker.await_ready()
        return worker

    yield start
    for worker in started:
        worker.kill()


class Session:
    """One session in the input bucket whose sensor file is a script."""

    def __init__(self, cloud: Cloud, folder: Path, name: str = "s", **script: Any) -> None:
        self.cloud, self.name = cloud, name
        self.log = folder / f"{name}.runs"
        self.script = {"runs": str(self.log), **script}
        self.s3 = boto3.client("s3")
        self.urls = {
            "sensor_data": f"s3://{cloud.stack.input_bucket}/sensor_data/{name}.csv",
            "video_footage": f"s3://{cloud.stack.input_bucket}/video_footage/{name}.mp4",
        }

    def upload(self) -> Session:
        self.upload_sensors()
        self.upload_video()
        return self

    def upload_sensors(self) -> None:
        self._put(f"sensor_data/{self.name}.csv", json.dumps(self.script).encode())

    def upload_video(self) -> None:
        self._put(f"video_footage/{self.name}.mp4", b"video")

    @property
    def runs(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def manifests(self) -> list[dict[str, Any]]:
        bucket = self.cloud.stack.output_bucket
        listed = self.s3.list_objects_v2(Bucket=bucket, Prefix=f"spine/{self.name}/")
        keys = [item["Key"] for item in listed.get("Contents", [])]
        return [
            json.loads(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())
            for key in keys
            if key.endswith("/manifest.json")
        ]

    def _put(self, key: str, body: bytes) -> None:
        self.s3.put_object(Bucket=self.cloud.stack.input_bucket, Key=key, Body=body)


def drained(cloud: Cloud) -> bool:
    counts = cloud.queue_counts()["spine"]
    return counts.waiting == counts.running == 0


def test_two_uploads_end_in_one_manifest_with_nobodys_help(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    session = Session(cloud, tmp_path).upload()
    [manifest] = eventually(session.manifests)
    assert manifest["status"] == "succeeded"
    assert manifest["result"]["answer"] == 42
    assert manifest["outputs"]["answer.txt"]["size"] == 3
    assert set(manifest["job"]["inputs"]) == {"sensor_data", "video_footage"}
    assert set(manifest["timings_s"]) == {"fetch", "load", "obey", "store"}
    assert manifest["attempt"] == 1
    eventually(lambda: drained(cloud))


def notification(session: Session, *keys: str) -> dict[str, Any]:
    bucket = {"name": session.cloud.stack.input_bucket}
    return {
        "Records": [
            {"eventName": "ObjectCreated:Put", "s3": {"bucket": bucket, "object": {"key": key}}}
            for key in keys
        ]
    }


@pytest.mark.parametrize("sensors_first", [True, False])
def test_events_repeated_at_once_and_in_either_order_make_one_job(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path, sensors_first: bool
) -> None:
    start_worker()
    session = Session(cloud, tmp_path)
    parts = [session.upload_sensors, session.upload_video]
    for upload in parts if sensors_first else reversed(parts):
        upload()
    sensor, video = "sensor_data/s.csv", "video_footage/s.mp4"
    for _ in range(5):
        handler(notification(session, sensor), None)
    both = [
        threading.Thread(target=handler, args=(notification(session, key), None))
        for key in (sensor, video)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    [manifest] = eventually(session.manifests)
    eventually(lambda: drained(cloud))
    for _ in range(5):
        handler(notification(session, video), None)
    eventually(lambda: drained(cloud))
    assert session.manifests() == [manifest]
    assert session.runs == 1


def test_a_job_whose_worker_is_killed_is_finished_by_another(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    doomed = start_worker()
    session = Session(cloud, tmp_path, sleep_s=2).upload()
    eventually(lambda: session.runs == 1)
    doomed.kill()
    start_worker()
    [manifest] = eventually(session.manifests)
    eventually(lambda: drained(cloud))
    assert manifest["status"] == "succeeded"
    assert manifest["worker"].startswith("w1@")
    assert manifest["attempt"] == 2
    assert session.runs == 2
    assert session.manifests() == [manifest]


def test_a_job_longer_than_the_visibility_timeout_is_started_once(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    start_worker()
    session = Session(cloud, tmp_path, sleep_s=2 * VISIBILITY_S).upload()
    [manifest] = eventually(session.manifests)
    eventually(lambda: drained(cloud))
    assert manifest["attempt"] == 1
    assert session.runs == 1


def test_a_worker_that_froze_past_its_lease_does_not_write_a_second_manifest(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    frozen = start_worker()
    session = Session(cloud, tmp_path, sleep_s=3).upload()
    eventually(lambda: session.runs == 1)
    os.killpg(os.getpgid(frozen.pid), signal.SIGSTOP)
    start_worker()
    [manifest] = eventually(session.manifests)
    os.killpg(os.getpgid(frozen.pid), signal.SIGCONT)
    eventually(lambda: "effect_owned_by_another" in frozen.log.read_text())
    eventually(lambda: drained(cloud))
    assert manifest["worker"].startswith("w1@")
    assert session.runs == 2
    assert session.manifests() == [manifest]
    latest = json.loads(
        boto3.client("s3")
        .get_object(Bucket=cloud.stack.output_bucket, Key="spine/s/latest.json")["Body"]
        .read()
    )
    assert latest["job_id"] == manifest["job_id"]


def test_a_failure_that_passes_is_retried_in_its_group(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    session = Session(cloud, tmp_path, fail=2).upload()
    start_worker()
    [manifest] = eventually(session.manifests)
    assert manifest["status"] == "succeeded"
    assert manifest["attempt"] == 3
    assert session.runs == 3
    eventually(lambda: drained(cloud))
    assert cloud.queue_counts()["spine"].dead == 0


def test_a_retry_keeps_the_group_of_its_session(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(CIS_RETRY_BACKOFF_S="900")
    session = Session(cloud, tmp_path, fail=1).upload()
    sqs, url = boto3.client("sqs"), cloud.stack.queue_urls["spine"]
    eventually(lambda: "Retry in" in worker.log.read_text())
    eventually(lambda: sum(vars(cloud.queue_counts()["spine"]).values()) == 1)
    worker.kill()  # holds the retry until it is due; without it the message comes back

    def retry() -> Any:
        answer = sqs.receive_message(QueueUrl=url, AttributeNames=["All"], WaitTimeSeconds=1)
        return answer.get("Messages")

    [message] = eventually(retry)
    headers = json.loads(base64.b64decode(message["Body"]))["headers"]
    assert headers["retries"] == 1
    assert message["Attributes"]["MessageGroupId"] == "s"
    assert message["Attributes"]["MessageDeduplicationId"] == f"{headers['id']}:1"
    assert session.runs == 1


def test_bad_input_is_a_failed_manifest_at_once_and_blocks_nobody(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    bad = Session(cloud, tmp_path, "bad", bad=True).upload()
    good = Session(cloud, tmp_path, "good").upload()
    start_worker()
    [failed] = eventually(bad.manifests)
    [succeeded] = eventually(good.manifests)
    assert failed["status"] == "failed"
    assert failed["error"] == {
        "code": "script_bad",
        "message": "The script is bad.",
        "hint": "Write a good one.",
    }
    assert list(failed["outputs"]) == ["why.txt"]
    assert succeeded["status"] == "succeeded"
    eventually(lambda: drained(cloud))
    assert bad.runs == 1
    assert cloud.queue_counts()["spine"].dead == 0


def test_a_job_that_keeps_failing_ends_in_the_dead_letter_queue_with_no_manifest(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker(CIS_MAX_ATTEMPTS="1")
    session = Session(cloud, tmp_path, fail=99).upload()
    eventually(lambda: cloud.queue_counts()["spine"].dead == 1)
    assert session.runs == 3  # maxReceiveCount
    assert session.manifests() == []
    result = cis_tasks.celery.AsyncResult(job_of(session))
    eventually(lambda: result.state == "FAILURE")


def job_of(session: Session) -> str:
    from cis_tasks.inputs import job_from_urls
    from cis_tasks.pipelines import find

    return job_from_urls(find("spine"), session.urls, {}).id


def test_delay_twice_is_one_job_and_gives_a_typed_answer(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    session = Session(cloud, tmp_path).upload()
    start_worker()
    results = [cis_tasks.calibrate_spine.delay(**session.urls) for _ in range(2)]
    assert {result.id for result in results} == {job_of(session)}
    answer = results[0].get(timeout=180)
    assert isinstance(answer, Answer)
    assert answer.result["answer"] == 42
    bucket, prefix = cloud.stack.output_bucket, f"spine/s/{results[0].id}"
    assert answer.files == {"answer.txt": f"s3://{bucket}/{prefix}/answer.txt"}
    assert answer.manifest == f"s3://{bucket}/{prefix}/manifest.json"
    eventually(lambda: drained(cloud))
    assert session.runs == 1


def test_force_makes_a_job_of_its_own(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    session = Session(cloud, tmp_path).upload()
    start_worker()
    first = cis_tasks.calibrate_spine.delay(**session.urls)
    again = cis_tasks.calibrate_spine.delay(**session.urls, force=True)
    assert first.id != again.id
    assert first.get(timeout=180).result == again.get(timeout=60).result
    assert session.runs == 2


def test_a_missing_object_raises_in_the_caller(cloud: Cloud, tmp_path: Path) -> None:
    session = Session(cloud, tmp_path)
    session.upload_sensors()
    with pytest.raises(PermanentError, match=r"s\.mp4") as caught:
        cis_tasks.calibrate_spine.delay(**session.urls)
    assert caught.value.code == "input_missing"
    with pytest.raises(PermanentError, match="video_footage"):
        cis_tasks.calibrate_spine.delay(session.urls["sensor_data"])


def test_bad_input_raises_its_own_error_from_get(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    session = Session(cloud, tmp_path, bad=True).upload()
    start_worker()
    result = cis_tasks.calibrate_spine.delay(**session.urls)
    with pytest.raises(PermanentError) as caught:
        result.get(timeout=180)
    assert caught.value.code == "script_bad"
    assert caught.value.hint == "Write a good one."


def test_canvas_keeps_job_ids_and_passes_answers_on(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    sessions = [Session(cloud, tmp_path, name).upload() for name in ("a", "b")]
    start_worker()
    signatures = [cis_tasks.calibrate_spine.s(**session.urls) for session in sessions]
    result = group(signatures).apply_async()
    assert [child.id for child in result.children] == [job_of(session) for session in sessions]
    assert [answer.result["answer"] for answer in result.get(timeout=180)] == [42, 42]
    two = chain(signatures[0], cis_tasks.calibrate_spine.si(**sessions[1].urls, force=True))
    last = two.apply_async()
    assert last.get(timeout=180).result["answer"] == 42
    assert sessions[1].runs == 2


def test_submit_uploads_local_files_and_carries_parameters(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    session = Session(cloud, tmp_path)
    sensors, video = tmp_path / "s.csv", tmp_path / "s.mp4"
    sensors.write_text(json.dumps(session.script))
    video.write_bytes(b"video")
    start_worker()
    first = cis_tasks.submit("spine", [sensors, video], k=1)
    again = cis_tasks.submit("spine", {"video_footage": video, "sensor_data": sensors}, k=1)
    assert first.id == again.id
    assert first.get(timeout=180).result["params"] == {"k": 1}
    eventually(lambda: drained(cloud))
    assert session.runs == 1  # the upload's own event asked for the very same job
    assert len(session.manifests()) == 1


def test_submit_many_publishes_in_batches(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    sessions = [Session(cloud, tmp_path, f"m{index}").upload() for index in range(3)]
    start_worker()
    submitted = cis_tasks.submit_many("spine", [session.urls for session in sessions])
    assert [item.error for item in submitted] == [None] * 3
    answers = [item.result.get(timeout=180) for item in submitted if item.result]
    assert [answer.name for answer in answers] == ["m0", "m1", "m2"]


def test_progress_can_be_watched(cloud: Cloud, start_worker: StartWorker, tmp_path: Path) -> None:
    from cis_tasks.lookup import locate

    session = Session(cloud, tmp_path, sleep_s=2).upload()
    start_worker()
    job_id = job_of(session)
    eventually(lambda: locate(job_id).stage == "obey", every_s=0.05)
    where = eventually(lambda: (found := locate(job_id)).ended and found)
    assert where.phase == "succeeded"
    assert locate("s").job_id == job_id == locate("spine/s").job_id


def test_a_message_that_is_no_job_goes_to_the_dead_letters_and_the_worker_goes_on(
    cloud: Cloud, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    cis_tasks.celery.send_task("cis_tasks.calibrate_spine", kwargs={"job": {"pipeline": 1}})
    session = Session(cloud, tmp_path).upload()
    eventually(session.manifests)
    eventually(lambda: cloud.queue_counts()["spine"].dead == 1)
