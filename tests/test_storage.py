from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from cis_tasks import aws, storage
from cis_tasks.errors import PermanentError, TransientError
from cis_tasks.execution import execute
from cis_tasks.image import decode
from cis_tasks.jobs import Job, ObjectRef
from cis_tasks.join import find_job, stat
from cis_tasks.lean_s3 import LeanS3
from cis_tasks.local.cloud import Cloud
from cis_tasks.manifest import Manifest, Output
from cis_tasks.pipelines import find
from cis_tasks.settings import settings
from cis_tasks.tasks import TASKS
from support.cloud import MakeCloud

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def job(version: str = "v") -> Job:
    return Job("spine", "1", "a", {"sensor_data": ObjectRef("in", "sensor_data/a.csv", version)})


def manifest(bucket: str, work: Job, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "job_id": work.id,
        "status": "succeeded",
        "job": work.to_dict(),
        "bucket": bucket,
        "pipeline_version": "1",
        "started_at": NOON,
        "finished_at": NOON,
        "worker": "w",
        "attempt": 1,
    }
    return Manifest.model_validate({**fields, **changes})


def put(cloud: Cloud, body: bytes) -> ObjectRef:
    bucket, key = cloud.stack.input_bucket, "sensor_data/a.csv"
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=body)
    found = stat(aws.s3(), bucket, key)
    assert found is not None
    return found.ref


class Announcing(ThreadingHTTPServer):
    """An S3 whose inputs are said to have five gigabytes, of which none ever comes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Announcer)
        self.put: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Announcer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        there = self.path.startswith("/in/")
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", str(5 << 30) if there else "0")
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 06:00:00 GMT")
        self.end_headers()
        if there:
            self.rfile.read(1)  # until the client goes

    def do_PUT(self) -> None:
        assert isinstance(self.server, Announcing)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.put[self.path] = body
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://b/k", ("b", "k")),
        ("s3://b/sensor_data/50% a?b#c.csv", ("b", "sensor_data/50% a?b#c.csv")),
    ],
)
def test_an_s3_url_names_bucket_and_key(url: str, place: tuple[str, str]) -> None:
    assert storage.parse_url(url) == place


@pytest.mark.parametrize(
    "url", ["", "b/k", "https://b/k", "s3://b", "s3://b/", "s3:///k", "s3:/b/k"]
)
def test_what_is_no_s3_url_is_refused(url: str) -> None:
    with pytest.raises(PermanentError, match="s3://bucket/key"):
        storage.parse_url(url)


def test_with_versions_the_very_bytes_of_the_job_are_read(cloud: Cloud, tmp_path: Path) -> None:
    first = put(cloud, b"first")
    put(cloud, b"second")
    uploaded = storage.fetch(aws.s3(), first, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert abs(datetime.now(UTC) - uploaded) < timedelta(minutes=5)


def test_without_versions_a_replaced_input_is_never_taken_for_the_job(
    make_cloud: MakeCloud, tmp_path: Path
) -> None:
    with make_cloud({"InputVersioning": "Suspended"}) as cloud:
        first = put(cloud, b"first")
        assert first.version == hashlib.md5(b"first").hexdigest()
        storage.fetch(aws.s3(), first, tmp_path / "a")
        assert put(cloud, b"first") == first
        put(cloud, b"second")
        with pytest.raises(PermanentError) as caught:
            storage.fetch(aws.s3(), first, tmp_path / "b")
    assert caught.value.code == "input_replaced"


def test_an_input_that_is_gone_is_named(cloud: Cloud, tmp_path: Path) -> None:
    ref = ObjectRef(cloud.stack.input_bucket, "sensor_data/never.csv", "etag")
    with pytest.raises(PermanentError, match=r"never\.csv") as caught:
        storage.fetch(aws.s3(), ref, tmp_path / "a")
    assert caught.value.code == "input_gone"


@pytest.fixture
def announcing() -> Iterator[Announcing]:
    with Announcing() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_of_an_input_that_is_too_large_nothing_is_read_but_its_size(
    announcing: Announcing, tmp_path: Path
) -> None:
    session = boto3.Session("a", "b", region_name="us-east-1")
    client = session.client("s3", endpoint_url=announcing.url)
    calls: list[str] = []
    lean = LeanS3(client, session.get_credentials(), calls.append)
    ref = ObjectRef("in", "images/film.jpg", "e")
    for s3 in (client, lean, lean):  # the second time, without boto3
        with pytest.raises(PermanentError, match=r"5,368,709,120 bytes; at most 1,000") as caught:
            storage.fetch(s3, ref, tmp_path / "a", max_bytes=1_000)
        assert caught.value.code == "input_too_large"
    assert calls == ["GetObject"]
    assert not (tmp_path / "a").exists()


def test_a_job_with_an_input_beyond_the_workers_setting_fails_for_good(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ref = put(cloud, b"0123456789")
    storage.fetch(aws.s3(), ref, tmp_path / "a", max_bytes=10)
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    monkeypatch.setenv("CIS_MAX_INPUT_BYTES", "9")
    settings.cache_clear()
    work = Job("spine", "1", "a", {"sensor_data": ref})
    with pytest.raises(PermanentError, match="10 bytes; at most 9"):
        TASKS["calibrate_spine"].run(job=work.to_dict())
    ended = storage.read_manifest(aws.s3(), cloud.stack.output_bucket, work)
    assert ended is not None
    assert ended.error is not None
    assert ended.error.code == "input_too_large"


def test_an_image_of_five_gigabytes_fails_its_job_before_any_of_it_is_read(
    announcing: Announcing,
) -> None:
    session = boto3.Session("a", "b", region_name="us-east-1")
    client = session.client("s3", endpoint_url=announcing.url)
    work = Job("image", "1", "film", {"image": ObjectRef("in", "images/film.jpg", "e")})
    with pytest.raises(PermanentError, match="134,217,728"):
        execute(client, "out", work)
    written = json.loads(announcing.put[f"/out/{work.manifest_key}"])
    assert written["error"]["code"] == "input_too_large"


def test_the_largest_image_that_is_downloaded_is_the_largest_that_is_decoded() -> None:
    assert find("image").role("image").max_bytes == decode.MAX_BYTES


def test_a_bucket_that_does_not_answer_is_no_fault_of_the_job(cloud: Cloud, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="no-such-bucket"):
        storage.write_manifest(aws.s3(), "no-such-bucket", job(), manifest("b", job()))


def test_the_first_manifest_stays(cloud: Cloud) -> None:
    bucket = cloud.stack.output_bucket
    first, second = manifest(bucket, job(), worker="w1"), manifest(bucket, job(), worker="w2")
    assert storage.read_manifest(aws.s3(), bucket, job()) is None
    assert storage.write_manifest(aws.s3(), bucket, job(), first)
    assert not storage.write_manifest(aws.s3(), bucket, job(), second)
    assert storage.read_manifest(aws.s3(), bucket, job()) == first


@pytest.mark.parametrize("newest_first", [True, False])
def test_latest_points_at_the_newest_inputs_whoever_ends_last(
    cloud: Cloud, newest_first: bool
) -> None:
    bucket = cloud.stack.output_bucket
    jobs = [
        (job("old"), manifest(bucket, job("old"), inputs_at=NOON)),
        (job("new"), manifest(bucket, job("new"), inputs_at=NOON + timedelta(seconds=1))),
    ]
    for work, record in reversed(jobs) if newest_first else jobs:
        storage.point_latest(aws.s3(), bucket, work, record)
    body = boto3.client("s3").get_object(Bucket=bucket, Key="spine/a/latest.json")["Body"].read()
    latest = json.loads(body)
    assert latest["job_id"] == job("new").id
    assert latest["manifest"] == job("new").manifest_key


def test_files_come_back_as_the_job_wrote_them(cloud: Cloud, tmp_path: Path) -> None:
    bucket, out = cloud.stack.output_bucket, tmp_path / "out"
    (out / "plots").mkdir(parents=True)
    (out / "plots/a.csv").write_text("1")
    outputs = storage.store(aws.s3(), bucket, job(), out, [out / "plots/a.csv"])
    record = manifest(bucket, job(), outputs=outputs)
    assert outputs["plots/a.csv"].sha256 == hashlib.sha256(b"1").hexdigest()
    # A stale worker writes over the file; the manifest still names the version it knew.
    (out / "plots/a.csv").write_text("2")
    storage.store(aws.s3(), bucket, job(), out, [out / "plots/a.csv"])
    [path] = storage.retrieve(aws.s3(), record, tmp_path / "back")
    assert path == tmp_path / "back/plots/a.csv"
    assert path.read_text() == "1"


def test_a_file_that_was_tampered_with_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    bucket = cloud.stack.output_bucket
    key = job().prefix + "a.csv"
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=b"other")
    wrong = Output(key=key, size=1, sha256=hashlib.sha256(b"1").hexdigest())
    with pytest.raises(PermanentError) as caught:
        storage.retrieve(aws.s3(), manifest(bucket, job(), outputs={"a.csv": wrong}), tmp_path)
    assert caught.value.code == "output_changed"


def test_a_join_without_versions_takes_etags(make_cloud: MakeCloud) -> None:
    with make_cloud({"InputVersioning": "Suspended"}) as cloud:
        put(cloud, b"first")
        boto3.client("s3").put_object(
            Bucket=cloud.stack.input_bucket, Key="video_footage/a.mp4", Body=b"v"
        )
        made = find_job(aws.s3(), cloud.stack.input_bucket, find("spine"), "a")
    assert isinstance(made, Job)
    assert made.inputs["sensor_data"].to_dict()["etag"] == hashlib.md5(b"first").hexdigest()
