"""Gyroscopes whose axes are off in scale and angle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from made_up import angle_deg

from cis_tasks.spine.procedure import calibrate_sightings

ASKEW = np.array([[1.010, 0.006, -0.004], [0, 0.992, 0.005], [0, 0, 1.004]])


def test_scale_and_skew_are_found_where_they_are_asked_for(session, cpu):
    made = session(sensors=2, duration_s=20, amplitude_rad=0.9)
    wrong = np.linalg.inv(ASKEW)
    recording = made.with_tracks(lambda track: replace(track, gyr=track.gyr @ wrong.T))
    plain = calibrate_sightings(recording, made.sightings, made.rig, cpu)
    shaped = calibrate_sightings(
        recording, made.sightings, made.rig, replace(cpu, max_gyro_shape=0.01)
    )
    for s in range(2):
        np.testing.assert_array_equal(plain.sensors[s].gyro_matrix, np.eye(3))
        np.testing.assert_allclose(shaped.sensors[s].gyro_matrix, ASKEW, atol=1e-3)
        errors = [
            angle_deg(c.sensors[s].R_sensor_tag.T @ made.R_sensor_tag[s]) for c in (plain, shaped)
        ]
        assert errors[1] < errors[0] / 3
