from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import polars as pl
import pytest
from made_up import angle_deg
from scipy.spatial.transform import Rotation

from cis_tasks.spine.outputs import SCHEMA, summarise, write_outputs
from cis_tasks.spine.procedure import calibrate_sightings


@pytest.fixture(scope="module")
def made(session):
    return session(sensors=3, duration_s=6, corner_sd_px=0.1, gyro_sd=0.005, after_s=-1.0)


@pytest.fixture(scope="module")
def calibration(made, cpu):
    return calibrate_sightings(made.recording, made.sightings, made.rig, cpu)


def test_angles_hold_one_row_per_frame_and_pair_the_same_in_both_formats(calibration, tmp_path):
    _, parquet, text = write_outputs(calibration, tmp_path)[:3]
    table = pl.read_parquet(parquet)
    assert dict(table.schema) == SCHEMA
    assert table.height == 2 * len(calibration.time_s)
    again = pl.read_csv(text, schema=SCHEMA)
    assert again.equals(table)


def test_angles_and_quaternions_are_those_of_the_motion(made, calibration, tmp_path):
    table = pl.read_parquet(write_outputs(calibration, tmp_path)[1])
    upper = table.filter(pl.col("cranial") == "T12").drop_nulls()
    assert set(upper["caudal"]) == {"L1"}
    time_s = upper["time_s"].to_numpy()
    true = made.R_camera_tag(1, time_s).mT @ made.R_camera_tag(2, time_s)
    q = upper.select("tag_qw", "tag_qx", "tag_qy", "tag_qz").to_numpy()
    found = Rotation.from_quat(q, scalar_first=True).as_matrix()
    assert np.sqrt((angle_deg(found.mT @ true) ** 2).mean()) < 0.3
    series = calibration.angles[1]
    known = np.isfinite(series.cardan_rad).all(1)
    np.testing.assert_allclose(
        upper.select("flexion_deg", "lateral_deg", "axial_deg").to_numpy(),
        series.cardan_deg[known],
        rtol=1e-8,
        atol=1e-8,
    )


def test_angles_are_null_where_a_sensor_was_not_recording(calibration, tmp_path):
    table = pl.read_csv(write_outputs(calibration, tmp_path)[2])
    late = table.filter(pl.col("time_s") > 5.2)
    assert late.height
    assert late["flexion_deg"].null_count() == late.height
    assert table.filter(pl.col("time_s") < 4.8)["tag_qw"].null_count() == 0


def test_calibration_json_tells_the_whole_calibration(made, calibration, tmp_path):
    found = json.loads(write_outputs(calibration, tmp_path)[0].read_text())
    assert found["time"]["offset_s"] == pytest.approx(made.plan.offset_s, abs=2e-3)
    assert found["time"]["rate"] == pytest.approx(made.plan.rate, abs=5e-4)  # from 5 s
    for s, sensor in enumerate(found["sensors"]):
        q = Rotation.from_quat(sensor["quaternion_sensor_tag_wxyz"], scalar_first=True)
        assert angle_deg(q.as_matrix().T @ made.R_sensor_tag[s]) < 1.5
        np.testing.assert_allclose(q.as_matrix(), sensor["R_sensor_tag"], atol=1e-8)
        np.testing.assert_allclose(sensor["gyro_bias_deg_s"], np.rad2deg(made.bias[s]), atol=0.2)
    assert [pair["cranial"] for pair in found["angles"]] == ["L1", "T12"]
    assert {gate["code"] for gate in found["gates"]} >= {"video_and_sensors_disagree"}
    assert found["rig"]["tag_size_m"] == made.rig.tag_size_m
    assert found["options"]["max_outlier_share"] == calibration.options.max_outlier_share


def test_the_same_session_gives_the_same_bytes(made, cpu, calibration, tmp_path):
    again = calibrate_sightings(made.recording, made.sightings, made.rig, cpu)
    written = []
    for name, result in (("first", calibration), ("second", again)):
        (tmp_path / name).mkdir()
        written.append([path.read_bytes() for path in write_outputs(result, tmp_path / name)])
    assert written[0] == written[1]


def test_the_summary_is_small_finite_json(calibration):
    text = json.dumps(summarise(calibration), allow_nan=False)
    assert len(text) < 10_000
    summary = json.loads(text)
    assert summary["passed"] is True
    assert len(summary["sensors"]) == 3
    span = summary["angles"][0]["flexion_deg"]
    assert span["min"] < span["mean"] < span["max"]
    assert math.isfinite(summary["rate_ppm"])


def test_a_single_sensor_gives_empty_angles_with_their_columns(session, cpu, tmp_path):
    made = session(sensors=1, duration_s=5)
    calibration = calibrate_sightings(made.recording, made.sightings, made.rig, cpu)
    table = pl.read_parquet(write_outputs(calibration, tmp_path)[1])
    assert table.height == 0
    assert table.columns == list(SCHEMA)


SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "calibration.schema.json"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def undescribed(value: object, schema: dict, place: str = "") -> Iterator[str]:
    """Members of ``value`` for which the schema has no words."""
    schemas = [schema, *schema.get("oneOf", [])]
    if isinstance(value, dict):
        described = {k: s for part in schemas for k, s in part.get("properties", {}).items()}
        for key, item in value.items():
            if key in described:
                yield from undescribed(item, described[key], f"{place}.{key}")
            elif described:
                yield f"{place}.{key}"
    elif isinstance(value, list) and "items" in schema:
        for item in value:
            yield from undescribed(item, schema["items"], f"{place}[]")


def test_calibration_json_is_as_its_schema_says(calibration, validator, tmp_path):
    unknown = replace(calibration.sensors[0], tag_px=math.nan, chi2=math.nan)
    failed = replace(calibration, sensors=(unknown, *calibration.sensors[1:]))
    for made in (calibration, failed):
        found = json.loads(write_outputs(made, tmp_path)[0].read_text())
        assert [error.message for error in validator.iter_errors(found)] == []
        assert set(undescribed(found, validator.schema)) == set()


def test_the_schema_refuses_what_is_not_a_calibration(calibration, validator, tmp_path):
    found = json.loads(write_outputs(calibration, tmp_path)[0].read_text())
    for wrong in (
        found | {"format": 2},
        found | {"passed": "yes"},
        found | {"sensors": []},
        {key: value for key, value in found.items() if key != "time"},
        found | {"gates": [found["gates"][0] | {"level": "maybe"}]},
    ):
        assert not validator.is_valid(wrong)
