from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import angle_deg
from scipy.spatial.transform import Rotation

from cis_tasks.errors import PermanentError
from cis_tasks.spine.angles import cardan_rad, segment_axes, spinal_angles
from cis_tasks.spine.procedure import calibrate_sightings


def turn(axis: str, degrees: float) -> np.ndarray:
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()


FRONT, UP, RIGHT = np.eye(3)


@pytest.mark.parametrize(
    ("flexion", "lateral", "axial"), [(30, 0, 0), (0, 20, 0), (0, 0, 40), (25, -15, 10)]
)
def test_angles_come_back_from_the_rotation_they_describe(flexion, lateral, axial):
    R = turn("z", -flexion) @ turn("x", lateral) @ turn("y", axial)
    found = np.rad2deg(cardan_rad(R[None]))[0]
    np.testing.assert_allclose(found, [flexion, lateral, axial], atol=1e-9)


def test_the_signs_are_those_of_a_person():
    def of(R: np.ndarray) -> np.ndarray:
        return cardan_rad(R[None])[0]

    bowed, leaned, looked_left = turn("z", -30), turn("x", 30), turn("y", 30)
    assert (bowed @ UP) @ FRONT > 0  # the head goes forwards
    assert of(bowed)[0] > 0
    assert (leaned @ UP) @ RIGHT > 0  # the head goes to the right
    assert of(leaned)[1] > 0
    assert (looked_left @ FRONT) @ RIGHT < 0  # the face turns to the left
    assert of(looked_left)[2] > 0


@pytest.fixture(scope="module")
def calibrated(session, cpu):
    made = session(sensors=3, duration_s=6)
    return made, calibrate_sightings(made.recording, made.sightings, made.rig, cpu)


def test_pairs_go_upwards_and_follow_the_tags(calibrated):
    made, calibration = calibrated
    assert [series.name for series in calibration.angles] == ["L1/sacrum", "T12/L1"]
    axes = segment_axes(made.rig, calibration.time_s, calibration.sensors)
    for i, series in enumerate(calibration.angles):
        R0 = made.R_camera_tag(i, series.time_s) @ axes[i]
        R1 = made.R_camera_tag(i + 1, series.time_s) @ axes[i + 1]
        assert angle_deg((R0.mT @ R1).mT @ series.R_caudal_cranial).max() < 0.01


def test_an_upright_tag_measures_bowing_as_flexion(calibrated):
    # Seen from behind, a tag that tips its top away from the camera belongs to a back that bows.
    made, calibration = calibrated
    axes = segment_axes(made.rig, calibration.time_s, calibration.sensors)[0]
    tag_tipped = turn("x", -30)  # tag axes: x right, y up, z towards the camera
    assert (tag_tipped @ UP)[2] < 0
    flexion, lateral, axial = np.rad2deg(cardan_rad((axes.T @ tag_tipped @ axes)[None]))[0]
    assert (flexion, lateral, axial) == pytest.approx((30, 0, 0), abs=1e-9)


def test_given_segment_axes_are_used(calibrated):
    made, calibration = calibrated
    askew = turn("zxy", [10, 20, 30])
    tags = dict(made.rig.tags)
    tags[1] = tags[1].model_copy(update={"R_tag_segment": askew})
    rig = made.rig.model_copy(update={"tags": tags})
    plain, changed = calibration.angles, spinal_angles(rig, calibration.time_s, calibration.sensors)
    upright = segment_axes(made.rig, calibration.time_s, calibration.sensors)[1]
    expected = plain[0].R_caudal_cranial @ upright.T @ askew
    np.testing.assert_allclose(changed[0].R_caudal_cranial, expected, atol=1e-12)


def test_angles_are_zero_in_the_neutral_pose(calibrated):
    made, calibration = calibrated
    moment = calibration.time_s[60]
    rig = made.rig.model_copy(update={"neutral_s": (moment - 0.001, moment + 0.001)})
    for series in spinal_angles(rig, calibration.time_s, calibration.sensors):
        np.testing.assert_allclose(series.cardan_rad[60], 0, atol=1e-9)
        assert np.abs(series.cardan_deg).max() > 5


def test_a_neutral_pose_outside_the_video_is_named(calibrated):
    made, calibration = calibrated
    rig = made.rig.model_copy(update={"neutral_s": (100.0, 101.0)})
    with pytest.raises(PermanentError, match="100–101 s") as caught:
        spinal_angles(rig, calibration.time_s, calibration.sensors)
    assert caught.value.code == "neutral_pose_outside"


def test_gimbal_lock_is_flagged_and_its_uncertainty_withheld(calibrated):
    made, calibration = calibrated
    n = len(calibration.time_s)
    lying = np.tile(turn("x", 90), (n, 1, 1))
    rig = made.rig.model_copy(
        update={
            "tags": {
                number: tag.model_copy(update={"R_tag_segment": np.eye(3)})
                for number, tag in made.rig.tags.items()
            }
        }
    )
    standing, bent = (
        replace(calibration.sensors[i], R_camera_tag=R)
        for i, R in enumerate((np.tile(np.eye(3), (n, 1, 1)), lying))
    )
    series = spinal_angles(rig, calibration.time_s, (standing, bent, bent))
    assert series[0].gimbal.all()
    assert np.isnan(series[0].sd_rad).all()
    assert not series[1].gimbal.any()
    assert np.isfinite(series[1].sd_rad).all()
