"""Wrong inputs, each named for what it is, from files through the public door."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from cis_tasks.errors import PermanentError
from cis_tasks.pipelines import find
from cis_tasks.spine import Options, calibrate
from cis_tasks.spine.overlay import write_overlay
from cis_tasks.spine.preconditions import require_alive
from cis_tasks.spine.procedure import calibrate_sightings
from cis_tasks.spine.readers.files import ACCEPTED
from cis_tasks.spine.rig import Rig

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "docs" / "spine-faults.md"


def changed(files, tmp_path, **changes) -> Path:
    """The session's rig with some of its JSON exchanged."""
    path = tmp_path / "rig.json"
    path.write_text(json.dumps(json.loads(files.rig.read_text()) | changes))
    return path


def refusal(files, rig) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        calibrate(files.sensors, files.video, rig, options=Options(device="cpu"))
    assert caught.value.hint
    return caught.value


def test_tags_of_another_family_are_named_with_theirs(files, tmp_path):
    error = refusal(files, changed(files, tmp_path, tag_family="25h9"))
    assert error.code == "tag_family_wrong"
    assert "36h11 (ids 0, 1)" in error.message
    assert '"36h11"' in error.hint


def test_tags_with_other_ids_are_named_with_theirs(files, tmp_path):
    tags = json.loads(files.rig.read_text())["tags"]
    error = refusal(files, changed(files, tmp_path, tags={"7": tags["0"], "8": tags["1"]}))
    assert error.code == "no_tag_seen"
    assert "shows the tags 0, 1" in error.message
    assert "7, 8" in error.message


def test_a_tag_size_in_another_unit_is_named(files, tmp_path):
    error = refusal(files, changed(files, tmp_path, tag_size_m=1.9))
    assert error.code == "tag_size_implausible"
    assert "1900 mm" in error.message


def test_a_camera_calibrated_at_twice_the_resolution_is_scaled_and_said(files, tmp_path):
    camera = Rig.model_validate_json(files.rig.read_text()).camera.resized(1280, 720)
    rig = changed(files, tmp_path, camera=json.loads(camera.model_dump_json()))
    options = Options(device="cpu")
    large = calibrate(files.sensors, files.video, rig, options=options)
    assert any("values were scaled" in warning for warning in large.warnings)
    plain = calibrate(files.sensors, files.video, files.rig, options=options)
    np.testing.assert_allclose(large.angles[0].cardan_rad, plain.angles[0].cardan_rad, atol=1e-4)


@pytest.fixture(scope="module")
def moving(session):
    return session(sensors=3, duration_s=5, gyro_sd=0.003, corner_sd_px=0.1)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1,)])
def test_a_dead_sensor_is_named(moving, cpu, axes):
    def kill(track):
        if track.sensor != "imu2":
            return track
        gyr = track.gyr.copy()
        gyr[:, axes] = 0.01
        return replace(track, gyr=gyr)

    with pytest.raises(PermanentError, match="imu2") as caught:
        calibrate_sightings(moving.with_tracks(kill), moving.sightings, moving.rig, cpu)
    assert caught.value.code == "sensor_dead"


def test_a_sensor_that_falls_silent_but_repeats_itself_is_dead_too(moving, cpu):
    def freeze(track):
        late = track.time_s > track.time_s[-1] - 3
        first = int(np.argmax(late))
        gyr = np.where(late[:, None], track.gyr[first], track.gyr)
        return replace(track, gyr=gyr) if track.sensor == "imu3" else track

    with pytest.raises(PermanentError, match="same reading") as caught:
        calibrate_sightings(moving.with_tracks(freeze), moving.sightings, moving.rig, cpu)
    assert caught.value.code == "sensor_dead"


def test_readings_that_are_stored_several_times_are_not_dead(moving):
    held = [replace(t, gyr=np.repeat(t.gyr[::3], 3, axis=0)[: len(t.gyr)])
            for t in moving.recording.tracks.values()]  # fmt: skip
    require_alive(held, "walk.csv")


def test_an_overlay_shows_every_frame_at_its_time(files, tmp_path):
    calibration = calibrate(files.sensors, files.video, files.rig, options=Options(device="cpu"))
    out, stages = tmp_path / "overlay.mp4", []
    write_overlay(
        calibration, files.video, out, lambda stage, fraction=0.0: stages.append(fraction)
    )
    with av.open(str(out)) as container, av.open(str(files.video)) as source:
        drawn = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        plain = [f.to_ndarray(format="rgb24") for f in source.decode(video=0)]
    np.testing.assert_allclose([t for t, _ in drawn], calibration.time_s, atol=2e-4)
    assert stages[-1] == 1.0
    for sensor in calibration.sensors:
        k = int(np.argmax(sensor.seen))
        x, y = sensor.corners_px[k].mean(0).astype(int)
        patch = np.s_[y - 4 : y + 5, x - 4 : x + 5]
        colour = np.ptp(drawn[k][1][patch].astype(float), axis=-1).max()
        assert colour > 60 > np.ptp(plain[k][patch].astype(float), axis=-1).max()


def test_the_registry_accepts_what_the_readers_read():
    assert find("spine").role("sensor_data").suffixes == ACCEPTED


def codes_in_the_code() -> set[str]:
    """Every code that the spine pipeline and its commands can end with."""
    found = set()
    sources = [
        *(ROOT / "cis_tasks" / "spine").rglob("*.py"),
        *(ROOT / "cis_tasks" / name for name in ("commands/spine.py", "params.py")),
    ]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'PermanentError\(\s*f?"([a-z0-9_]+)"', text))
    quality = (ROOT / "cis_tasks" / "spine" / "quality.py").read_text(encoding="utf-8")
    found |= set(re.findall(r'_Rule\(\s*"[^"]+",\s*"([a-z0-9_]+)"', quality))
    found |= set(re.findall(r'^AGREEMENT = "([a-z_]+)"', quality, re.MULTILINE))
    return found


def test_every_code_is_in_the_table_and_no_other():
    table = set(re.findall(r"^\| `([a-z0-9_]+)` \|", FAULTS.read_text(encoding="utf-8"), re.M))
    assert codes_in_the_code() - table == set(), f"to be explained in {FAULTS.name}"
    assert table - codes_in_the_code() == set(), f"in {FAULTS.name}, but nowhere in the code"
