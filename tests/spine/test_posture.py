"""Gravity, tilt, the two curves, the course of the back, and the time beyond the video."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import angle_deg
from scipy.spatial.transform import Rotation

from cis_tasks.errors import PermanentError
from cis_tasks.spine.angles import R_UPRIGHT_TAG_SEGMENT, functional_axes
from cis_tasks.spine.posture import course, find_posture, kyphosis_of, lordosis_of
from cis_tasks.spine.procedure import calibrate_sightings

UP_CAMERA = np.array([0.0, -1.0, 0.0])  # the made-up camera stands upright


@pytest.fixture(scope="module")
def calibrated(session, cpu):
    made = session(sensors=4, duration_s=8, before_s=6.0, after_s=6.0)
    return made, calibrate_sightings(made.recording, made.sightings, made.rig, cpu)


def test_the_accelerometers_show_the_way_up(calibrated):
    _, calibration = calibrated
    assert np.degrees(np.arccos(calibration.up_camera @ UP_CAMERA)) < 0.1


def test_an_accelerometers_bias_is_told_from_gravity_by_rest_in_several_poses(session, cpu):
    made = session(sensors=2, duration_s=20, amplitude_rad=1.0)
    bias = np.array([0.12, -0.08, 0.1])
    recording = made.with_tracks(
        lambda t: replace(t, acc=t.acc + bias) if t.sensor == "imu1" else t
    )
    found = calibrate_sightings(recording, made.sightings, made.rig, cpu).acc_bias
    np.testing.assert_allclose(found[0], bias, atol=0.06)
    np.testing.assert_allclose(found[1], 0, atol=0.06)


def test_without_accelerometers_there_is_no_tilt_and_nothing_beyond(session, cpu):
    made = session(sensors=2, duration_s=5)
    recording = made.with_tracks(lambda t: replace(t, acc=np.full_like(t.acc, np.nan)))
    calibration = calibrate_sightings(recording, made.sightings, made.rig, cpu)
    assert calibration.passed
    assert calibration.up_camera is None
    assert np.isnan(calibration.posture.tilt_rad).all()
    assert calibration.beyond == ()


def test_tilt_is_forwards_and_to_the_right(calibrated):
    made, calibration = calibrated
    # Segment axes in the upright camera that looks at the back: front is away from it.
    standing = np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]])
    bowed = standing @ Rotation.from_euler("z", -20, degrees=True).as_matrix()
    leaning = standing @ Rotation.from_euler("x", 15, degrees=True).as_matrix()
    n = len(calibration.time_s)
    sensors = [
        replace(sensor, R_camera_tag=np.tile(R, (n, 1, 1)), inside=np.ones(n, bool))
        for sensor, R in zip(calibration.sensors, (standing, bowed, leaning, standing), strict=True)
    ]

    class Down:
        up_camera, sd_rad = UP_CAMERA, 0.01

    posture = find_posture(made.rig, sensors, [np.eye(3)] * 4, Down())
    tilt = np.rad2deg(posture.tilt_rad[:, 0])
    np.testing.assert_allclose(tilt, [[0, 0], [20, 0], [0, 15], [0, 0]], atol=1e-9)
    assert "not Cobb" in posture.notice
    assert "no diagnosis" in posture.notice


def test_the_curves_are_those_between_the_segments_that_they_are_named_after():
    names = ["sacrum", "L1", "T12", "T6"]
    assert (lordosis_of(names).lower, lordosis_of(names).upper) == (0, 2)
    assert (kyphosis_of(names).lower, kyphosis_of(names).upper) == (2, 3)
    assert lordosis_of(["head", "hip"]) is None
    assert kyphosis_of(["sacrum", "L1"]) is None


def test_a_bent_back_runs_along_an_arc():
    bend = np.radians(60)
    R = np.array([np.eye(3), Rotation.from_rotvec([0, 0, -bend]).as_matrix()])[:, None]
    line = course(R, np.array([0.3]))[0]
    radius = 0.3 / bend
    end = [radius * (1 - np.cos(bend)), radius * np.sin(bend), 0]
    np.testing.assert_allclose(line[-1], end, atol=2e-4)
    assert np.isclose(np.linalg.norm(np.diff(line, axis=0), axis=1).sum(), 0.3)


def test_bending_forwards_gives_the_segments_axes():
    askew = Rotation.from_euler("xyz", [4, -7, 5], degrees=True).as_matrix()
    R_tag_segment = R_UPRIGHT_TAG_SEGMENT @ askew
    standing = np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]])
    angles = np.linspace(0, 50, 40)
    bending = standing @ Rotation.from_euler("z", -angles[:, None], degrees=True).as_matrix()
    found = functional_axes(standing @ R_tag_segment.T, bending @ R_tag_segment.T, UP_CAMERA)
    assert angle_deg(found.T @ R_tag_segment) < 1e-4


def test_a_flexion_without_bending_is_refused():
    standing = np.tile(np.eye(3), (10, 1, 1))
    with pytest.raises(PermanentError) as caught:
        functional_axes(np.eye(3), standing, UP_CAMERA)
    assert caught.value.code == "flexion_too_small"
    assert caught.value.hint


def test_beyond_the_video_the_sensors_carry_the_angles_from_where_it_left_them(calibrated):
    made, calibration = calibrated
    assert [series.name for series in calibration.beyond] == ["L1/sacrum", "T12/L1", "T6/T12"]
    for i, series in enumerate(calibration.beyond):
        outside = (series.time_s < 0) | (series.time_s > made.plan.duration_s - 0.05)
        assert outside.all()
        assert series.time_s[0] < -5 < 5 < series.time_s[-1] - made.plan.duration_s + 0.1
        assert not series.visible.any()
        R = [made.R_camera_tag(s, series.time_s) @ R_UPRIGHT_TAG_SEGMENT for s in (i, i + 1)]
        error = angle_deg((R[0].mT @ R[1]).mT @ series.R_caudal_cranial)
        assert np.sqrt((error**2).mean()) < 1.0
        after = series.time_s > made.plan.duration_s
        assert (np.diff(series.sd_rad[after].sum(1)) > -0.01).all()
        assert series.sd_rad[after][-1].sum() > series.sd_rad[after][0].sum()
