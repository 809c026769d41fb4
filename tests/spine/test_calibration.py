"""The calibration from corners, without a video: exact where it can be, and honest elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import angle_deg, make_session

from cis_tasks.errors import PermanentError
from cis_tasks.spine.procedure import calibrate_sightings
from cis_tasks.spine.quality import require_passed

NOISE = {"corner_sd_px": 0.1, "gyro_sd": 0.005}


@pytest.fixture(scope="module")
def calibrate(cpu):
    def run(made, recording=None, corners=None, options=cpu, rig=None):
        sightings = made.sightings
        if corners is not None:
            sightings = replace(sightings, corners_px=corners)
        return calibrate_sightings(recording or made.recording, sightings, rig or made.rig, options)

    return run


def offset_error_ms(made, calibration) -> float:
    """Where the offset is known best, in the middle of the video."""
    sync, plan = calibration.sync, made.plan
    return 1e3 * (sync.offset_mid_s - (plan.rate - 1) * sync.mid_s - plan.offset_s)


def mounting_error_deg(made, calibration) -> np.ndarray:
    found = np.array([sensor.R_sensor_tag for sensor in calibration.sensors])
    return angle_deg(found.mT @ made.R_sensor_tag)


def tag_error_deg(made, calibration) -> np.ndarray:
    errors = []
    for s, sensor in enumerate(calibration.sensors):
        true = made.R_camera_tag(s, calibration.time_s)
        errors.append(angle_deg(sensor.R_camera_tag.mT @ true))
    return np.array(errors)


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"offset_s": 1.7e9},
        {"offset_s": -200.0, "before_s": 300.0, "after_s": 600.0},
        {"rate": 0.9995},
        {"sensors": 1},
        {"readout_s": 0.02},
        {"distortion": (-0.1, 0.02, 0.0, 0.0, 0.0)},
        {"frame_rate_hz": 59.94},
    ],
    ids=str,
)
def test_perfect_input_is_solved_exactly(session, calibrate, wishes):
    made = session(**wishes)
    calibration = calibrate(made)
    assert abs(offset_error_ms(made, calibration)) < 0.005
    assert mounting_error_deg(made, calibration).max() < 0.01
    assert tag_error_deg(made, calibration).max() < 0.01
    found = np.array([sensor.gyro_bias for sensor in calibration.sensors])
    np.testing.assert_allclose(found, made.bias, atol=np.deg2rad(0.005))
    assert calibration.sync.rate_ppm == pytest.approx(1e6 * (made.plan.rate - 1), abs=5)
    assert calibration.passed


def test_sensors_of_different_rate_are_solved_together(session, calibrate):
    made = session(rates_hz=(285.0, 100.0, 60.0, 400.0))
    calibration = calibrate(made)
    assert abs(offset_error_ms(made, calibration)) < 0.02  # 60 Hz misses some of the motion
    assert mounting_error_deg(made, calibration).max() < 0.02
    assert [round(s.rate_hz) for s in calibration.sensors] == [285, 100, 60, 400]


def test_noise_costs_little_and_the_uncertainty_says_how_much(session, calibrate):
    made = session(duration_s=20, **NOISE)
    calibration = calibrate(made)
    assert abs(offset_error_ms(made, calibration)) < 0.2
    assert mounting_error_deg(made, calibration).max() < 0.4
    assert np.sqrt((tag_error_deg(made, calibration) ** 2).mean()) < 0.15
    ratios = [
        error / np.rad2deg(sensor.mounting_sd_rad)
        for error, sensor in zip(
            mounting_error_deg(made, calibration), calibration.sensors, strict=True
        )
    ]
    assert max(ratios) < 3
    assert calibration.passed


def test_small_noisy_tags_that_flip_are_put_right_by_the_gyroscope(session, calibrate):
    made = session(duration_s=20, tag_size_m=0.03, corner_sd_px=0.3, gyro_sd=0.005)
    calibration = calibrate(made)
    assert np.sqrt((tag_error_deg(made, calibration) ** 2).mean()) < 0.6
    assert abs(offset_error_ms(made, calibration)) < 0.5


def test_an_unmodelled_rolling_shutter_would_shift_the_clocks(session, calibrate):
    made = session(readout_s=0.02, sensors=2)
    camera = made.rig.camera.model_copy(update={"readout_s": 0.0})
    rig = made.rig.model_copy(update={"camera": camera})
    assert abs(offset_error_ms(made, calibrate(made, rig=rig))) > 0.1
    assert abs(offset_error_ms(made, calibrate(made))) < 0.005


def test_the_gyroscope_carries_a_tag_that_is_hidden_for_seconds(session, calibrate):
    made = session(**NOISE)
    corners = made.sightings.corners_px.copy()
    corners[0, 100:200] = np.nan
    calibration = calibrate(made, corners=corners)
    hidden = slice(110, 190)
    assert tag_error_deg(made, calibration)[0, hidden].max() < 0.6
    sd = calibration.sensors[0].orientation_sd_rad
    assert (sd[150] > sd[50]).all()
    assert not calibration.angles[0].visible[hidden].any()
    assert np.isfinite(calibration.angles[0].cardan_rad[hidden]).all()


def test_a_bias_that_wanders_in_a_long_session_is_followed_leg_by_leg(session, calibrate, cpu):
    made = session(sensors=2, duration_s=100, frame_rate_hz=15.0, rates_hz=(100.0,), **NOISE)
    drift = np.deg2rad(0.15)

    def wandering(track):
        share = (track.time_s - track.time_s[0]) / np.ptp(track.time_s)
        return replace(track, gyr=track.gyr + drift * share[:, None])

    recording = made.with_tracks(wandering)
    calibration = calibrate(made, recording)
    assert calibration.passed
    assert np.sqrt((tag_error_deg(made, calibration) ** 2).mean()) < 0.2
    whole = calibrate(made, recording, options=replace(cpu, leg_s=1e4))
    assert max(s.outlier_share for s in whole.sensors) > 2 * max(
        s.outlier_share for s in calibration.sensors
    )


def test_a_recording_of_half_the_video_is_used_with_a_warning(session, calibrate):
    made = session(**NOISE)
    calibration = calibrate(made, made.with_tracks(lambda track: track.between(0, 6)))
    gate = {gate.code: gate for gate in calibration.gates}["recording_partial"]
    assert not gate.passed
    assert calibration.passed
    assert abs(offset_error_ms(made, calibration)) < 0.5
    inside = calibration.sensors[0].inside
    assert np.isnan(calibration.angles[0].cardan_rad[~inside]).all()
    assert np.isfinite(calibration.angles[0].cardan_rad[inside]).all()


def test_a_single_sensor_gives_its_calibration_and_says_that_there_are_no_angles(
    session, calibrate
):
    calibration = calibrate(session(sensors=1))
    assert calibration.angles == ()
    assert any("single sensor" in warning for warning in calibration.warnings)


def test_the_evidence_is_that_of_the_session(session, calibrate):
    made = session(sensors=2, **NOISE)
    sensor = calibrate(made).sensors[1]
    agree = np.isfinite(sensor.camera_speed) & np.isfinite(sensor.gyro_speed)
    assert np.corrcoef(sensor.camera_speed[agree], sensor.gyro_speed[agree])[0, 1] > 0.9
    assert sensor.coverage == 1
    assert sensor.tag_px == pytest.approx(60, rel=0.15)
    # Eight noisy coordinates less the six that the pose explains, over four corners.
    assert sensor.reprojection_px == pytest.approx(0.1 * np.sqrt(2 / 4), rel=0.15)
    assert np.rad2deg(np.nanmedian(sensor.residual_rad)) < 1


def swapped(made):
    tracks = made.recording.tracks
    exchanged = {
        "imu1": replace(tracks["imu2"], sensor="imu1"),
        "imu2": replace(tracks["imu1"], sensor="imu2"),
    }
    return replace(made.recording, tracks=tracks | exchanged)


def left_handed(made):
    return made.with_tracks(lambda track: replace(track, gyr=track.gyr * [1, -1, 1]))


def clipped(made):
    return made.with_tracks(lambda track: replace(track, gyr=track.gyr.clip(-0.5, 0.5)))


def of_another_session(made):
    return make_session(replace(made.plan, seed=99)).recording


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (swapped, "imu1 and imu2 seem to be swapped"),
        (left_handed, "imu1 is left-handed"),
        (clipped, "imu1 stays at its limit of 29 °/s"),
        (of_another_session, "seem to be of different sessions"),
    ],
)
def test_sensors_that_do_not_fit_the_video_fail_with_the_likely_cause(
    session, calibrate, fault, words
):
    made = session(sensors=3, **NOISE)
    calibration = calibrate(made, fault(made))
    assert not calibration.passed
    with pytest.raises(PermanentError, match="gyroscope and tag disagree, imu") as caught:
        require_passed(calibration)
    assert caught.value.code == "video_and_sensors_disagree"
    assert "made-up.csv" in caught.value.message
    assert words in caught.value.hint


def test_a_swap_is_named_even_where_there_is_no_third_sensor_to_hold_on_to(session, calibrate):
    made = session(sensors=2, **NOISE)
    gates = calibrate(made, swapped(made)).gates
    hint = next(gate.hint for gate in gates if gate.code == "video_and_sensors_disagree")
    assert "imu1 and imu2 seem to be swapped" in hint


def test_another_session_is_not_mistaken_for_a_swap_or_a_wrong_axis(session, calibrate):
    made = session(sensors=3, **NOISE)
    gates = calibrate(made, of_another_session(made)).gates
    hint = next(gate.hint for gate in gates if gate.code == "video_and_sensors_disagree")
    assert "swapped in the rig:" not in hint
    assert "left-handed:" not in hint
    assert "limit" not in hint


def refusal(calibrate, made, recording=None, **changes) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        calibrate(made, recording, **changes)
    assert caught.value.hint
    return caught.value


def test_motion_about_one_axis_alone_leaves_the_mounting_open(session, calibrate):
    made = session(sensors=2, axes=(1.0, 0.0, 0.0), **NOISE)
    calibration = calibrate(made)
    with pytest.raises(PermanentError) as caught:
        require_passed(calibration)
    assert caught.value.code == "mounting_uncertain"
    assert "±30° about at least two axes" in caught.value.hint


def test_nothing_moving_is_said_with_what_to_do(session, calibrate):
    error = refusal(calibrate, session(sensors=2, amplitude_rad=0.0, **NOISE))
    assert error.code == "nothing_moving"
    assert "±30° about at least two axes, for 10–20 s" in error.hint


@pytest.mark.parametrize("sensors", [("imu1",), ("imu1", "imu2")])
def test_a_gyroscope_in_degrees_is_recognised_by_the_video(session, calibrate, sensors):
    made = session(sensors=2, amplitude_rad=0.2, **NOISE)
    recording = made.with_tracks(
        lambda t: replace(t, gyr=np.rad2deg(t.gyr)) if t.sensor in sensors else t
    )
    error = refusal(calibrate, made, recording)
    assert error.code == "gyro_in_degrees"
    assert "imu1" in error.message
    assert "0.0174533" in error.hint


def test_a_gyroscope_converted_to_radians_twice_is_recognised(session, calibrate):
    made = session(sensors=2, **NOISE)
    error = refusal(calibrate, made, made.with_tracks(lambda t: replace(t, gyr=np.deg2rad(t.gyr))))
    assert error.code == "gyro_too_small"
    assert "imu1" in error.message


def test_a_sensor_that_recorded_at_another_time_is_named(session, calibrate):
    made = session(sensors=2, **NOISE)
    recording = made.with_tracks(
        lambda t: replace(t, time_s=t.time_s + 1000) if t.sensor == "imu2" else t
    )
    error = refusal(calibrate, made, recording)
    assert error.code == "clocks_do_not_overlap"
    assert "before sensor imu2 starts" in error.message


def test_a_sensor_that_stopped_before_the_video_is_named(session, calibrate):
    made = session(sensors=2, before_s=8.0, **NOISE)
    recording = made.with_tracks(lambda t: t.between(-8, -2) if t.sensor == "imu2" else t)
    error = refusal(calibrate, made, recording)
    assert error.code == "clocks_do_not_overlap"
    assert "imu2" in error.message


def test_a_clock_that_jumps_by_years_is_named(session, calibrate):
    made = session(sensors=2, **NOISE)

    def jumping(track):
        return replace(track, time_s=np.r_[-1.7e9, track.time_s[1:]])

    error = refusal(calibrate, made, made.with_tracks(jumping))
    assert error.code == "recording_too_long"


def test_a_recording_shorter_than_any_overlap_is_refused(session, calibrate):
    made = session(sensors=2, **NOISE)
    error = refusal(calibrate, made, made.with_tracks(lambda t: t.between(3, 4)))
    assert error.code == "too_little_overlap"


def test_a_hole_in_the_recording_is_named_with_its_place(session, calibrate):
    made = session(sensors=2, **NOISE)

    def with_hole(track):
        kept = (track.time_s < 4) | (track.time_s > 4.6)
        return replace(track, time_s=track.time_s[kept], gyr=track.gyr[kept], acc=track.acc[kept])

    error = refusal(calibrate, made, made.with_tracks(with_hole))
    assert error.code == "recording_gap"
    assert "imu1" in error.message
    assert "0.60 s" in error.message


def test_a_hole_outside_the_video_does_not_matter(session, calibrate):
    made = session(sensors=2, before_s=20.0, **NOISE)

    def with_hole(track):
        kept = (track.time_s < -15) | (track.time_s > -10)
        return replace(track, time_s=track.time_s[kept], gyr=track.gyr[kept], acc=track.acc[kept])

    assert calibrate(made, made.with_tracks(with_hole)).passed


def test_a_tag_seen_for_a_moment_only_is_named(session, calibrate):
    made = session(sensors=2, **NOISE)
    corners = made.sightings.corners_px.copy()
    corners[1, 10:] = np.nan
    error = refusal(calibrate, made, corners=corners)
    assert error.code == "tag_rarely_seen"
    assert "Tag 1 (L1)" in error.message


def test_an_absent_sensor_is_named(session, calibrate):
    made = session(sensors=2)
    only = replace(made.recording, tracks={"imu1": made.recording.tracks["imu1"]})
    error = refusal(calibrate, made, only)
    assert error.code == "sensor_absent"
    assert "imu2" in error.message


def test_cuda_is_refused_where_there_is_none(session, calibrate, cpu):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    error = refusal(calibrate, session(sensors=1), options=replace(cpu, device="cuda"))
    assert error.code == "device_absent"
