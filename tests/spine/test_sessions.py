"""Real gyroscopes with a rendered video and the truth of an optical reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up import angle_deg

from cis_tasks.spine import Options, calibrate

SHARED_SESSIONS = Path(__file__).parents[3] / "shared/data/sessions"
# The recordings' gyroscopes are stamped this much late against their optical reference.
STAMPED_LATE_S = 0.0041


@pytest.mark.skipif(
    not SHARED_SESSIONS.is_dir(), reason=f"no recorded sessions in {SHARED_SESSIONS}"
)
@pytest.mark.parametrize("name", ["slow-a", "translation"])
def test_a_recorded_session_is_calibrated_within_its_tolerances(name):
    truth = np.load(SHARED_SESSIONS / f"truth/{name}.npz")
    calibration = calibrate(
        SHARED_SESSIONS / f"sensor_data/{name}.csv",
        SHARED_SESSIONS / f"video_footage/{name}.mp4",
        SHARED_SESSIONS / f"sensor_data/{name}.json",
        options=Options(device="cpu"),
    )
    assert calibration.passed
    offset_s = calibration.sync.offset_s - STAMPED_LATE_S
    assert offset_s == pytest.approx(float(truth["offset_s"]), abs=0.5e-3)
    mounting = np.array([sensor.R_sensor_tag for sensor in calibration.sensors])
    assert angle_deg(mounting.mT @ truth["R_sensor_tag"]).max() < 0.5
    found = np.array([sensor.R_camera_tag for sensor in calibration.sensors])
    true = truth["R_camera_tag"]
    error = angle_deg((found[:-1].mT @ found[1:]).mT @ (true[:-1].mT @ true[1:]))
    assert np.sqrt((error**2).mean(1)).max() < 0.30
