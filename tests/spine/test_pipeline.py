"""The pipeline from files to files, on a rendered video."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from made_up import angle_deg, write_csv

from cis_tasks.errors import PermanentError
from cis_tasks.pipelines import find
from cis_tasks.spine import Options, Rig, calibrate
from cis_tasks.spine.pipeline import run


@pytest.fixture(scope="module")
def done(files, tmp_path_factory):
    out, stages = tmp_path_factory.mktemp("out"), []
    outcome = run(files.inputs, out, {}, lambda stage, fraction=0.0: stages.append(stage))
    return out, outcome, stages


def test_a_session_becomes_its_files(done):
    out, outcome, _ = done
    names = [
        *("angles.csv", "angles.parquet", "beyond.csv", "beyond.parquet"),
        *("calibration.json", "posture.csv", "posture.parquet", "report.html"),
    ]
    assert sorted(path.name for path in outcome.files) == names
    assert sorted(path.name for path in out.iterdir()) == names
    assert all(path.stat().st_size > 100 for path in outcome.files)


def test_the_summary_holds_the_answer(files, done):
    _, outcome, _ = done
    plan = files.session.plan
    summary = json.loads(json.dumps(dict(outcome.summary)))
    assert summary["passed"] is True
    assert summary["time_offset_s"] == pytest.approx(plan.offset_s, abs=2e-3)
    assert [sensor["segment"] for sensor in summary["sensors"]] == ["sacrum", "L1"]
    assert outcome.model
    assert outcome.model_version


def test_stages_are_told_in_their_order(done):
    _, _, stages = done
    order = list(dict.fromkeys(stages))
    assert order == ["read", "detect", "align", "solve", "angles", "report"]
    assert stages.count("detect") > 100


def test_the_registry_names_this_pipeline():
    assert find("spine").load() is run


def test_calibrate_gives_the_motion_from_files(files):
    calibration = calibrate(files.sensors, files.video, files.rig, options=Options(device="cpu"))
    made = files.session
    series = calibration.angles[0]
    pair = [made.R_camera_tag(s, series.time_s) for s in range(2)]
    found = [sensor.R_camera_tag for sensor in calibration.sensors]
    error = angle_deg((found[0].mT @ found[1]).mT @ (pair[0].mT @ pair[1]))
    assert np.sqrt((error**2).mean()) < 0.4


def test_naming_the_pipeline_loads_neither_torch_nor_opencv():
    code = "import sys, cis_tasks.spine.pipeline; print({'torch', 'cv2', 'av'} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"


def refusal(inputs, out, params=None) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        run(inputs, out, params or {})
    assert caught.value.hint
    return caught.value


def test_a_missing_rig_says_where_to_put_one(files, tmp_path):
    inputs = {role: path for role, path in files.inputs.items() if role != "rig"}
    error = refusal(inputs, tmp_path)
    assert error.code == "rig_missing"
    assert "sensor_data/<session>.json" in error.hint
    assert "rigs/default.json" in error.hint


def test_parameters_are_checked_before_anything_else(files, tmp_path):
    assert refusal(files.inputs, tmp_path, {"speed": 1}).code == "params_unknown"
    assert refusal(files.inputs, tmp_path, {"max_offset_sd_ms": -1}).code == "params_invalid"


def test_a_failed_gate_still_leaves_the_report_that_shows_why(files, tmp_path):
    made = files.session
    tracks = made.recording.tracks
    swapped = replace(
        made.recording, tracks={"imu1": tracks["imu2"], "imu2": tracks["imu1"]}
    ).tracks
    named = {name: replace(track, sensor=name) for name, track in swapped.items()}
    write_csv(replace(made.recording, tracks=named), tmp_path / "swapped.csv")
    out = tmp_path / "out"
    out.mkdir()
    error = refusal({**files.inputs, "sensor_data": tmp_path / "swapped.csv"}, out)
    assert error.code == "video_and_sensors_disagree"
    assert (out / "report.html").stat().st_size > 100
    assert json.loads((out / "calibration.json").read_text())["passed"] is False


@pytest.mark.parametrize(
    ("role", "content", "code"),
    [
        ("video_footage", b"", "video_empty"),
        ("video_footage", b"no video at all" * 100, "video_unreadable"),
        ("sensor_data", b"", "sensors_empty"),
        ("sensor_data", b"time,x\n1,2\n", "sensors_columns"),
        ("sensor_data", b"\xff\xfe\x00\x01", "sensors_not_text"),
        ("rig", b"", "rig_unreadable"),
        ("rig", b"{}", "rig_invalid"),
    ],
)
def test_each_bad_file_is_refused_by_name(files, tmp_path, role, content, code):
    bad = tmp_path / f"bad{files.inputs[role].suffix}"
    bad.write_bytes(content)
    error = refusal({**files.inputs, role: bad}, tmp_path)
    assert error.code == code
    assert bad.name in error.message


def test_a_rig_for_other_sensors_is_refused_before_the_video_is_read(files, tmp_path):
    rig = Rig.model_validate_json(files.rig.read_text())
    tags = {n: tag.model_copy(update={"sensor": f"dot{n}"}) for n, tag in rig.tags.items()}
    other = tmp_path / "other.json"
    other.write_text(rig.model_copy(update={"tags": tags}).to_json())
    stages = []
    with pytest.raises(PermanentError, match="dot0, dot1") as caught:
        run(
            {**files.inputs, "rig": other},
            tmp_path,
            {},
            lambda stage, fraction=0.0: stages.append(stage),
        )
    assert caught.value.code == "sensor_absent"
    assert stages == ["read"]
