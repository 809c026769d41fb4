from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pytest
from scipy.spatial.transform import Rotation

from cis_tasks.errors import PermanentError
from cis_tasks.spine import calibrate
from cis_tasks.spine.outputs import write_outputs
from cis_tasks.spine.rig import Rig
from cis_tasks.spine.sample import Sample, write_sample
from cis_tasks.spine.truth import compare

SMALL = {"width": 480, "height": 272, "fps": 10, "duration_s": 4.0}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return write_sample(tmp_path_factory.mktemp("small"), session="s 1", **SMALL)


def readings(sample: Sample, sensor: str) -> pl.DataFrame:
    return pl.read_csv(sample.sensor_data).filter(pl.col("sensor_id") == sensor)


def truth(sample: Sample) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(sample.truth.read_text())
    return read


def integrated(sample: Sample, item: dict[str, Any], at_s: np.ndarray) -> Rotation:
    """``R_start_now`` of a sensor from its gyroscope less the true bias, at sensor times."""
    table = readings(sample, item["sensor"])
    times = table["timestamp_s"].to_numpy()
    rates = table.select("gyr_x", "gyr_y", "gyr_z").to_numpy() - item["gyro_bias_rad_s"]
    turns = Rotation.from_rotvec((rates[1:] + rates[:-1]) / 2 * np.diff(times)[:, None])
    path = [Rotation.identity()]
    for turn in turns:
        path.append(path[-1] * turn)
    nearest = np.abs(times[:, None] - at_s).argmin(0)
    return Rotation.concatenate([path[index] for index in nearest])


def test_the_gyroscopes_turn_as_the_tags_do(small: Sample) -> None:
    true = truth(small)
    at = true["rate"] * np.array(true["time_s"]) + true["offset_s"]
    for pair, caudal, cranial in zip(
        true["pairs"], true["sensors"], true["sensors"][1:], strict=False
    ):
        between = Rotation.from_matrix(pair["R_caudal_cranial_tag"])
        lower, upper = integrated(small, caudal, at), integrated(small, cranial, at)
        S_lower = Rotation.from_matrix(caudal["R_sensor_tag"])
        S_upper = Rotation.from_matrix(cranial["R_sensor_tag"])
        start = lower[0] * S_lower * between[0] * S_upper.inv() * upper[0].inv()
        told = S_lower.inv() * lower.inv() * start * upper * S_upper
        assert np.degrees((told.inv() * between).magnitude()).max() < 0.3


def test_the_accelerometers_feel_gravity_on_average(small: Sample) -> None:
    for item in truth(small)["sensors"]:
        force = readings(small, item["sensor"]).select("acc_x", "acc_y", "acc_z").to_numpy()
        quiet = force[:200]  # the person stands still at first
        assert np.linalg.norm(quiet.mean(0)) == pytest.approx(9.81, abs=0.05)
        at_rest, in_all = (np.linalg.norm(part, axis=1).std() for part in (quiet, force))
        assert in_all > 2 * at_rest  # and then moves


def test_the_spine_moves_about_all_three_axes(small: Sample) -> None:
    ranges = [np.ptp(np.array(pair["cardan_deg"]), axis=0) for pair in truth(small)["pairs"]]
    assert np.max(ranges, axis=0).min() > 10


def test_the_files_fit_together(small: Sample) -> None:
    rig = Rig.model_validate_json(small.rig.read_text())
    true = truth(small)
    assert [tag.sensor for tag in rig.tags.values()] == [s["sensor"] for s in true["sensors"]]
    with av.open(str(small.video_footage)) as video:
        frames = sum(1 for _ in video.decode(video=0))
        assert (video.streams.video[0].width, video.streams.video[0].height) == (480, 272)
    assert frames == len(true["time_s"]) == 40
    assert small.sensor_data.name == "s 1.csv"


def test_the_same_seed_writes_the_same_bytes_and_another_seed_another_session(
    small: Sample, tmp_path: Path
) -> None:
    again = write_sample(tmp_path / "again", session="s 1", **SMALL)
    other = write_sample(tmp_path / "other", session="s 1", seed=1, **SMALL)
    for part in ("sensor_data", "rig", "video_footage", "truth"):
        first = getattr(small, part).read_bytes()
        assert getattr(again, part).read_bytes() == first
        assert getattr(other, part).read_bytes() != first


def test_a_calibration_of_the_sample_finds_its_truth(tmp_path: Path) -> None:
    stages: set[str] = set()
    sample = write_sample(
        tmp_path, duration_s=10, seed=3, progress=lambda stage, fraction=0.0: stages.add(stage)
    )
    calibration = calibrate(sample.sensor_data, sample.video_footage, sample.rig)
    write_outputs(calibration, tmp_path)
    errors = compare(sample.truth, tmp_path / "calibration.json", tmp_path / "angles.parquet")
    assert calibration.passed
    assert stages == {"sensors", "video"}
    assert max(errors.mounting_deg.values()) < 0.5
    assert max(errors.bias_deg_s.values()) < 0.2
    assert abs(errors.offset_ms) < 1.0
    for pair in errors.pairs:
        assert pair.rotation_rmse_deg < 0.4
        assert max(pair.cardan_rmse_deg) < 0.4


@pytest.mark.parametrize(
    "wrong",
    [
        {"duration_s": 1.0},
        {"duration_s": float("nan")},
        {"session": "a/b"},
        {"session": " "},
        {"width": 101},
        {"fps": 0},
    ],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(PermanentError) as caught:
        write_sample(tmp_path, **wrong)
    assert caught.value.code == "sample_arguments"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError, match="file") as caught:
        write_sample(tmp_path / "file")
    assert caught.value.code == "folder_unwritable"
