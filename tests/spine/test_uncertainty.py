"""Intervals that hold the truth, also where errors repeat from frame to frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import angle_deg

from cis_tasks.spine.angles import R_UPRIGHT_TAG_SEGMENT, cardan_rad
from cis_tasks.spine.procedure import calibrate_sightings
from cis_tasks.spine.uncertainty import spread


def test_errors_that_last_through_a_block_widen_what_the_fit_believes():
    rng = np.random.default_rng(2)
    blocks, frames = 200, 10
    # The mean of numbers that are the same ten times over: the fit thinks that it has ten.
    repeated = np.repeat(rng.normal(size=(blocks, 1)), frames, axis=1)
    believed = torch.tensor([[1 / (blocks * frames)]], dtype=torch.float64)
    widened = spread(believed, torch.tensor(repeated.sum(1, keepdims=True)))
    assert float(widened.sqrt()) == pytest.approx(np.sqrt(1 / blocks), rel=0.2)


def test_a_parameter_without_any_pull_keeps_what_the_fit_believes():
    believed = torch.diag(torch.tensor([0.1, 2.0], dtype=torch.float64))
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    widened = spread(believed, gradients)
    assert torch.isfinite(widened).all()
    assert float(widened[1, 1]) == pytest.approx(2.0)


def test_most_angles_lie_in_their_interval_although_the_tags_err_for_seconds(session, cpu):
    made = session(sensors=3, duration_s=15, corner_sd_px=0.1, gyro_sd=0.005)
    rng = np.random.default_rng(3)
    corners = made.sightings.corners_px
    slow = rng.normal(0, 0.08, (corners.shape[0], corners.shape[1] // 10 + 1, 4, 2))
    wandering = corners + np.repeat(slow, 10, axis=1)[:, : corners.shape[1]]
    sightings = replace(made.sightings, corners_px=wandering)
    calibration = calibrate_sightings(made.recording, sightings, made.rig, cpu)
    inside = []
    for i, series in enumerate(calibration.angles):
        R = [made.R_camera_tag(s, series.time_s) @ R_UPRIGHT_TAG_SEGMENT for s in (i, i + 1)]
        true = np.rad2deg(cardan_rad(R[0].mT @ R[1]))
        low, high = series.interval_95_deg
        inside.append(((low < true) & (true < high)).mean())
    assert np.mean(inside) > 0.9
    for sensor, true in zip(calibration.sensors, made.R_sensor_tag, strict=True):
        assert angle_deg(sensor.R_sensor_tag.T @ true) < np.rad2deg(sensor.mounting_95_rad)
