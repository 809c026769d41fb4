"""Which way is up in the picture, from the accelerometers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cis_tasks.spine.calibration import SensorCalibration, TimeSync
from cis_tasks.spine.recording import Track

Floats = NDArray[np.float64]

G_M_S2 = 9.80665
STILL_RAD_S = np.deg2rad(12.0)  # slower than that, a strapped sensor hardly accelerates
STILL_M_S2 = 0.4  # and what it feels is gravity's size
LEAST_FRAMES = 10
BIAS_PRIOR_M_S2 = 0.15  # standard deviation per axis of consumer accelerometers
NOISE_M_S2 = 0.15  # of a still frame: sway, and that neighbouring frames repeat
KNOWN_M_S2 = 0.1  # an accelerometer's bias is told where rest makes it this certain


@dataclass(frozen=True)
class Gravity:
    """Up in the camera, and what the accelerometers read too much.

    Attributes:
        up_camera: (3,) unit vector, camera axes.
        sd_rad: standard deviation of its direction, per axis.
        acc_bias: (S, 3) m/s², sensor axes; NaN where the sensor never rested in poses that are
            different enough to tell.
    """

    up_camera: Floats
    sd_rad: float
    acc_bias: Floats


def find_gravity(
    time_s: Floats,
    sync: TimeSync,
    sensors: Sequence[SensorCalibration],
    tracks: Sequence[Track],
) -> Gravity | None:
    """Gravity and accelerometer biases by least squares over the calmest frames.

    ``acc = R_camera_sensorᵀ · g · up + bias``. Without rest in several poses, bias and gravity
    cannot be told apart; a prior on the bias then decides, and the bias counts as unknown.

    Args:
        time_s: (K,) video times.
        sync: the clocks.
        sensors: calibrated.
        tracks: their recordings.

    Returns:
        None where no accelerometer tells anything.
    """
    count = len(sensors)
    normal = np.zeros((3 + 3 * count, 3 + 3 * count))
    pull = np.zeros(len(normal))
    for s, (sensor, track) in enumerate(zip(sensors, tracks, strict=True)):
        R_sensor_camera, force = _calm(time_s, sync, sensor, track)
        own = slice(3 + 3 * s, 6 + 3 * s)
        normal[own, own] += np.eye(3) / BIAS_PRIOR_M_S2**2
        weight = 1 / NOISE_M_S2**2 / max(len(force) / 30.0, 1.0)  # a second of rest is one news
        normal[:3, :3] += weight * len(force) * np.eye(3)
        cross = weight * R_sensor_camera.sum(0)
        normal[own, :3] += cross
        normal[:3, own] += cross.T
        normal[own, own] += weight * len(force) * np.eye(3)
        pull[:3] += weight * np.einsum("kji,kj->i", R_sensor_camera, force)
        pull[own] += weight * force.sum(0)
    if not normal[:3, :3].any():
        return None
    covariance = np.linalg.inv(normal)
    found = covariance @ pull
    size = float(np.linalg.norm(found[:3]))
    sd = np.sqrt(np.diagonal(covariance))
    bias, bias_sd = found[3:].reshape(count, 3), sd[3:].reshape(count, 3)
    known = bias_sd.max(1, keepdims=True) < KNOWN_M_S2
    return Gravity(found[:3] / size, float(sd[:3].max() / size), np.where(known, bias, np.nan))


def _calm(
    time_s: Floats, sync: TimeSync, sensor: SensorCalibration, track: Track
) -> tuple[Floats, Floats]:
    """``R_sensor_camera`` (n, 3, 3) and specific force (n, 3) in the calmest frames."""
    at = sync.rate * time_s + sync.offset_s
    good = np.isfinite(track.acc).all(1)
    if good.sum() < LEAST_FRAMES:
        return np.empty((0, 3, 3)), np.empty((0, 3))
    force = np.stack([np.interp(at, track.time_s[good], axis) for axis in track.acc[good].T], -1)
    rate = np.stack([np.interp(at, track.time_s, axis) for axis in track.gyr.T], -1)
    speed = np.linalg.norm(rate - sensor.gyro_bias, axis=1)
    stray = np.abs(np.linalg.norm(force, axis=1) - G_M_S2)
    unrest = np.where(sensor.inside, speed / STILL_RAD_S + stray / STILL_M_S2, np.inf)
    inside = int(sensor.inside.sum())
    # Where nobody rests, the calmest tenth is the best there is.
    limit = max(1.0, float(np.sort(unrest)[min(inside // 10, len(unrest) - 1)]))
    calm = unrest <= limit
    R_camera_sensor = sensor.R_camera_tag[calm] @ sensor.R_sensor_tag.T
    return R_camera_sensor.mT, force[calm]
