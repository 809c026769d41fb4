"""The spine pipeline through the whole way, with the real aws command line as the uploader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import polars as pl
import pytest
from scipy.spatial.transform import Rotation, Slerp

from cis_tasks import storage
from cis_tasks.local.cloud import Cloud
from cis_tasks.manifest import Manifest
from cis_tasks.spine.sample import Sample, write_sample
from support.cloud import MakeCloud, eventually

Break = Callable[[Sample], None]
RECORDED = Path(__file__).parents[3] / "shared/data/sessions"
# The recordings' gyroscopes are stamped this much late against their optical reference.
STAMPED_LATE_S = 0.0041
GYRO = ("gyr_x", "gyr_y", "gyr_z")


@pytest.fixture(scope="module")
def cloud_with_worker(make_cloud: MakeCloud) -> Iterator[Cloud]:
    with make_cloud(workers=1) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("good")
    return write_sample(folder, session="good", duration_s=6, width=960, height=540, fps=25)


def change_table(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Break:
    def change_file(sample: Sample) -> None:
        change(pl.read_csv(sample.sensor_data)).write_csv(sample.sensor_data)

    return change_file


def change_rig(change: Callable[[dict[str, Any]], None]) -> Break:
    def change_file(sample: Sample) -> None:
        rig = json.loads(sample.rig.read_text())
        change(rig)
        sample.rig.write_text(json.dumps(rig))

    return change_file


def truncate_video(sample: Sample) -> None:
    whole = sample.video_footage.read_bytes()
    sample.video_footage.write_bytes(whole[: len(whole) // 2])  # MP4 keeps its index at the end


def freeze(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.lit(0.001).alias(name) for name in GYRO)


def swap_times(table: pl.DataFrame) -> pl.DataFrame:
    half = len(table) // 2
    return pl.concat([table[half:], table[:half]])


BROKEN: dict[str, tuple[Break, str]] = {
    "no-rig": (lambda sample: sample.rig.unlink(), "rig_missing"),
    "rig-no-json": (lambda sample: sample.rig.write_text("{"), "rig_unreadable"),
    "rig-other-sensor": (
        change_rig(lambda rig: rig["tags"]["0"].update(sensor="imu9")),
        "sensor_absent",
    ),
    "rig-other-tags": (
        change_rig(
            lambda rig: rig.update(tags={str(int(t) + 50): v for t, v in rig["tags"].items()})
        ),
        "no_tag_seen",
    ),
    "video-no-video": (
        lambda sample: sample.video_footage.write_bytes(b"no video"),
        "video_unreadable",
    ),
    "video-truncated": (truncate_video, "video_unreadable"),
    "csv-no-text": (
        lambda sample: sample.sensor_data.write_bytes(b"\xff\xfe\x00" * 99),
        "sensors_not_text",
    ),
    "csv-no-gyro": (change_table(lambda t: t.drop("gyr_x")), "sensors_columns"),
    "csv-nan": (
        change_table(lambda t: t.with_columns(pl.lit(float("nan")).alias("gyr_y"))),
        "sensors_bad_rows",
    ),
    "csv-backwards": (change_table(swap_times), "sensors_time_order"),
    "csv-degrees": (
        change_table(lambda t: t.with_columns(pl.col(n).degrees() for n in GYRO)),
        "gyro_in_degrees",
    ),
    "nothing-moves": (change_table(freeze), "nothing_moving"),
}


def copy_of(good: Sample, folder: Path, name: str) -> Sample:
    places = {
        part: folder / getattr(good, part).parent.name / (name + getattr(good, part).suffix)
        for part in ("sensor_data", "rig", "video_footage", "truth")
    }
    for part, path in places.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(getattr(good, part).read_bytes())
    return Sample(name, **places)


def upload(folder: Path, cloud: Cloud) -> None:
    """``aws s3 cp --recursive``, the rigs first so that no job starts without its own."""
    target = f"s3://{cloud.stack.input_bucket}/"
    command = [sys.executable, "-m", "awscli", "s3", "cp", "--only-show-errors", "--recursive"]
    for part in ("*.json", "*.csv", "*.mp4"):
        only = ["--exclude", "*", "--include", part]
        subprocess.run([*command, str(folder), target, *only], check=True, env=dict(os.environ))


def manifest(cloud: Cloud, name: str) -> dict[str, Any]:
    s3, bucket = boto3.client("s3"), cloud.stack.output_bucket

    def look() -> dict[str, Any] | None:
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"spine/{name}/").get("Contents", [])
        keys = [item["Key"] for item in listed if item["Key"].endswith("/manifest.json")]
        assert len(keys) <= 1
        if not keys:
            return None
        body = s3.get_object(Bucket=bucket, Key=keys[0])["Body"].read()
        found: dict[str, Any] = json.loads(body)
        return found

    return eventually(look, timeout_s=240) or {}


def test_bad_sessions_each_fail_with_their_reason_and_block_nobody(
    cloud_with_worker: Cloud, good: Sample, tmp_path: Path
) -> None:
    for name, (damage, _) in BROKEN.items():
        damage(copy_of(good, tmp_path, name))
    copy_of(good, tmp_path, "good")
    upload(tmp_path, cloud_with_worker)
    ended = {name: manifest(cloud_with_worker, name) for name in [*BROKEN, "good"]}
    errors = {name: (m["error"] or {}).get("code") for name, m in ended.items()}
    assert errors == {**{name: code for name, (_, code) in BROKEN.items()}, "good": None}
    for name in BROKEN:
        assert ended[name]["status"] == "failed"
        assert ended[name]["attempt"] == 1
        assert ended[name]["error"]["message"]
        assert ended[name]["error"]["hint"]
    assert set(ended["good"]["outputs"]) == {
        "angles.csv",
        "angles.parquet",
        "beyond.csv",
        "beyond.parquet",
        "calibration.json",
        "posture.csv",
        "posture.parquet",
        "report.html",
    }

    def drained() -> bool:
        counts = cloud_with_worker.queue_counts()["spine"]
        return counts.waiting == counts.running == counts.dead == 0

    eventually(drained)


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"no recorded sessions in {RECORDED}")
@pytest.mark.parametrize("name", ["slow-a", "translation"])
def test_a_recorded_session_comes_back_within_its_tolerances(
    cloud_with_worker: Cloud, tmp_path: Path, name: str
) -> None:
    for part in (
        f"sensor_data/{name}.json",
        f"sensor_data/{name}.csv",
        f"video_footage/{name}.mp4",
    ):
        (tmp_path / "in" / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / part).symlink_to(RECORDED / part)
    upload(tmp_path / "in", cloud_with_worker)
    ended = Manifest.model_validate(manifest(cloud_with_worker, name))
    assert ended.status == "succeeded", ended.error
    storage.retrieve(boto3.client("s3"), ended, tmp_path / "out")
    found = json.loads((tmp_path / "out/calibration.json").read_text())
    truth = np.load(RECORDED / f"truth/{name}.npz")
    offset_s = found["time"]["offset_s"] - STAMPED_LATE_S
    assert offset_s == pytest.approx(float(truth["offset_s"]), abs=0.5e-3)
    for sensor, true in zip(found["sensors"], truth["R_sensor_tag"], strict=True):
        assert degrees(np.array(sensor["R_sensor_tag"]).T @ true) < 0.5
    table = pl.read_parquet(tmp_path / "out/angles.parquet")
    seen = truth["R_camera_tag"]
    segments = [sensor["segment"] for sensor in found["sensors"]]
    for index, (caudal, cranial) in enumerate(pairwise(segments)):
        rows = table.filter((pl.col("caudal") == caudal) & (pl.col("cranial") == cranial))
        q = rows.select("tag_qx", "tag_qy", "tag_qz", "tag_qw").to_numpy()
        between = Slerp(rows["time_s"].to_numpy(), Rotation.from_quat(q))
        frames_s = np.arange(seen.shape[1]) / float(truth["fps"])
        told = between(frames_s.clip(rows["time_s"].min(), rows["time_s"].max())).as_matrix()
        error = degrees(told.mT @ (seen[index].mT @ seen[index + 1]))
        assert np.sqrt((error**2).mean()) < 0.30


def degrees(R: np.ndarray) -> np.ndarray:
    return np.degrees(Rotation.from_matrix(R).magnitude())


def outside(**variables: str) -> dict[str, str]:
    """The environment of somebody who has no cloud yet."""
    ours = ("AWS_ENDPOINT", "CIS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "COLUMNS": "120", **variables}


def test_the_demo_does_the_whole_way_and_shows_its_result(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cis_tasks", "demo", "--state", str(tmp_path)],
        env=outside(CIS_OUTPUT_BUCKET="of-another-cloud"),  # left from a shell's past
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in ("aws s3 cp", "sacrum–L1", "flexion", "RMSE", "time offset", "stages: fetch"):
        assert shown in done.stdout
    report = tmp_path / "results/report.html"
    assert str(report) in done.stdout.replace("\n", "")
    assert report.read_text().lower().startswith("<!doctype html>")


def test_a_demo_that_cannot_run_says_so_and_exits_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cis_tasks", "demo", "--state", str(tmp_path / "file")],
        env=outside(AWS_ENDPOINT_URL="http://127.0.0.1:1", AWS_MAX_ATTEMPTS="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
