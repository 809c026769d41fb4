"""Before and after the video: the sensors alone, held to where the video left them.

VQF (Laidig & Seel, Information Fusion 91:187, 2023) gives each sensor's orientation to the earth,
with the gyroscope's bias as the video calibrated it. Its inclination stays true by gravity; its
heading is free, and is anchored to the video at the near end, so that it only drifts from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import vqf
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from cis_tasks.spine.angles import spinal_angles
from cis_tasks.spine.calibration import AngleSeries, Calibration, SensorCalibration
from cis_tasks.spine.recording import Track

Floats = NDArray[np.float64]

EDGE_S = 2.0  # of the video at its ends, over which a heading is averaged
LEAST_S = 0.2  # beyond the video; less is not worth a row
MAG_TIME_S = 20.0  # with a calibrated bias, headings hold longer than magnets tell them
INCLINATION_RAD = np.deg2rad(0.5)  # of VQF in motion, on recordings with optical truth
WALK_RAD_SQRT_S = np.deg2rad(0.15)  # of a heading, beside the bias


def orient(track: Track, bias: Floats | None = None, mag: Floats | None = None) -> Rotation | None:
    """The sensor in the earth (east-north-up, or any heading without magnetometer) at its times.

    Args:
        track: readings; times need not be even.
        bias: (3,) rad/s to take off the gyroscope.
        mag: (N, 3) magnetic field in any unit, sensor axes.

    Returns:
        None where the accelerometer tells nothing.
    """
    if not np.isfinite(track.acc).all(1).any():
        return None
    step = 1 / track.rate_hz
    even = np.arange(track.time_s[0], track.time_s[-1] + step / 2, step)
    gyr = _resample(even, track, track.gyr - (0.0 if bias is None else bias))
    acc = _resample(even, track, track.acc)
    if mag is None:
        quaternions = vqf.offlineVQF(gyr, acc, None, step)["quat6D"]
    else:
        field = _resample(even, track, mag)
        found = vqf.offlineVQF(gyr, acc, field, step, {"tauMag": MAG_TIME_S})
        quaternions = found["quat9D"]
    path = Slerp(even, Rotation.from_quat(quaternions, scalar_first=True))
    return path(track.time_s.clip(even[0], even[-1]))


def _resample(even: Floats, track: Track, values: Floats) -> Floats:
    good = np.isfinite(values).all(1)
    columns = [np.interp(even, track.time_s[good], column[good]) for column in values.T]
    return np.ascontiguousarray(np.stack(columns, -1))


def extend(
    calibration: Calibration, tracks: Sequence[Track], axes: tuple[Floats, ...]
) -> tuple[AngleSeries, ...]:
    """Angles before and after the video, at the video's frame rate.

    Args:
        calibration: of the video.
        tracks: the whole recordings, in the order of its sensors.
        axes: ``R_tag_segment`` of each sensor's tag.

    Returns:
        One series per pair, none where there is nothing beyond, or no gravity.
    """
    time_s = _times_beyond(calibration, tracks)
    if len(time_s) == 0 or calibration.up_camera is None or len(tracks) < 2:
        return ()
    carried = []
    for sensor, track in zip(calibration.sensors, tracks, strict=True):
        path = _path(track, sensor)
        if path is None:
            return ()
        carried.append(_carry(calibration, sensor, path, time_s))
    return spinal_angles(calibration.rig, time_s, tuple(carried), axes)


def _times_beyond(calibration: Calibration, tracks: Sequence[Track]) -> Floats:
    sync, video_s = calibration.sync, calibration.time_s
    step = float(np.median(np.diff(video_s)))
    first = (max(track.time_s[0] for track in tracks) - sync.offset_s) / sync.rate
    last = (min(track.time_s[-1] for track in tracks) - sync.offset_s) / sync.rate
    before = np.arange(video_s[0] - step, first, -step)[::-1]
    after = np.arange(video_s[-1] + step, last, step)
    parts = [part for part in (before, after) if len(part) * step >= LEAST_S]
    return np.concatenate(parts) if parts else np.empty(0)


def _path(track: Track, sensor: SensorCalibration) -> Slerp | None:
    true = replace(track, gyr=track.gyr @ sensor.gyro_matrix.T)
    orientations = orient(true, sensor.gyro_bias)
    return None if orientations is None else Slerp(track.time_s, orientations)


def _carry(
    calibration: Calibration, sensor: SensorCalibration, path: Slerp, time_s: Floats
) -> SensorCalibration:
    """The sensor's tag at times beyond the video, anchored to the nearer end."""
    sync, video_s = calibration.sync, calibration.time_s
    at = (sync.rate * time_s + sync.offset_s).clip(path.times[0], path.times[-1])
    R_earth_tag = path(at).as_matrix() @ sensor.R_sensor_tag
    before = time_s < video_s[0]
    usable = np.flatnonzero(sensor.inside)
    R = np.empty_like(R_earth_tag)
    away_s, sd = np.empty_like(time_s), np.empty((len(time_s), 3))
    for part, end in ((before, usable[0]), (~before, usable[-1])):
        edge = usable[np.abs(video_s[usable] - video_s[end]) <= EDGE_S]
        inside = (sync.rate * video_s[edge] + sync.offset_s).clip(path.times[0], path.times[-1])
        R_earth_there = path(inside).as_matrix() @ sensor.R_sensor_tag
        R_camera_earth = _anchor(
            sensor.R_camera_tag[edge] @ R_earth_there.mT, calibration.up_camera
        )
        R[part] = R_camera_earth @ R_earth_tag[part]
        away_s[part] = np.abs(time_s[part] - video_s[end])
        sd[part] = sensor.orientation_sd_rad[end]
    drift = np.linalg.norm(sensor.gyro_bias_sd) / np.sqrt(3) * away_s
    grown = sd**2 + (INCLINATION_RAD**2 + drift**2 + WALK_RAD_SQRT_S**2 * away_s)[:, None]
    nothing = np.zeros(len(time_s), dtype=bool)
    return replace(
        sensor,
        R_camera_tag=R,
        orientation_sd_rad=np.sqrt(grown),
        inside=~nothing,
        seen=nothing,
    )


def _anchor(R_camera_earth: Floats, up_camera: Floats | None) -> Floats:
    """The mean of what the edge's frames say, with the earth's up exactly where gravity is."""
    mean = Rotation.from_matrix(R_camera_earth).mean().as_matrix()
    if up_camera is None:
        return np.asarray(mean)
    upright, _ = Rotation.align_vectors(up_camera[None], mean[:, 2][None])
    return np.asarray(upright.as_matrix() @ mean)
