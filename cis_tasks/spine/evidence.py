"""From the solver's numbers to what a reader is shown, sensor by sensor and frame by frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cis_tasks.spine import so3, uncertainty
from cis_tasks.spine.calibration import Flags, Floats, SensorCalibration, TimeSync
from cis_tasks.spine.gyro import Gyro, shape_matrix
from cis_tasks.spine.options import Options
from cis_tasks.spine.pose import Poses, pick
from cis_tasks.spine.recording import Track
from cis_tasks.spine.rig import Rig
from cis_tasks.spine.smooth import smooth
from cis_tasks.spine.solve import Solution
from cis_tasks.spine.tags import Sightings

# Corner errors repeat from frame to frame (same lens, same print, same light): four frames are
# taken to tell as much as one would if they did not.
REPEATED_FRAMES = 4
SPEED_FRAMES = 2  # long against corner noise, short against motion


def describe_sync(solution: Solution) -> TimeSync:
    """The clocks, referred to video time zero."""
    state = solution.state
    rate_error, mid_offset = float(state.rate_error), float(state.offset_s)
    offset_sd, rate_sd = _sd(solution)[-2:]
    return TimeSync(
        offset_s=mid_offset - rate_error * state.mid_s,
        rate=1.0 + rate_error,
        offset_sd_s=float(uncertainty.OFFSET_S.of(offset_sd)),
        rate_sd=float(rate_sd),
        mid_s=state.mid_s,
        offset_mid_s=mid_offset,
    )


def describe_sensors(
    *,
    rig: Rig,
    sightings: Sightings,
    tracks: Sequence[Track],
    time_s: Tensor,
    poses: Poses,
    gyro: Gyro,
    solution: Solution,
    options: Options,
) -> tuple[SensorCalibration, ...]:
    """Every sensor's calibration with its evidence, smoothed over the frames."""
    R, R_sd = _smoothed(sightings.time_s, time_s, gyro, solution, options)
    sd = _sd(solution)[:-2].reshape(len(tracks), -1)
    inside = gyro.covers(solution.state.sensor_time_s(time_s)).cpu().numpy()
    seen = poses.ok.cpu().numpy()
    used = solution.used.cpu().numpy()
    residual = _array(solution.residual.norm(dim=-1))
    chi2, weight = _array(solution.chi2), _array(solution.weight)
    reprojection = np.sqrt(_array(pick(poses.error_px2, solution.choice)) / 4)
    seen_R = pick(poses.R_camera_tag, solution.choice)
    camera_speed = np.where(_both_ends(seen), _speed(time_s, seen_R), np.nan)
    gyro_speed = np.where(_both_ends(inside), _speed(time_s, solution.R_camera_tag), np.nan)
    side_px = sightings.side_px
    found = []
    for s, (number, tag) in enumerate(rig.ordered_tags):
        ok = used[s]
        found.append(
            SensorCalibration(
                sensor=tag.sensor,
                tag=number,
                segment=tag.segment,
                R_sensor_tag=_array(solution.state.R_sensor_tag[s]),
                mounting_sd_rad=float(np.linalg.norm(uncertainty.MOUNTING_RAD.of(sd[s, -6:-3]))),
                gyro_matrix=_array(shape_matrix(solution.state.shape)[s]),
                gyro_bias=_array(solution.state.bias[s]),
                gyro_bias_sd=uncertainty.BIAS_RAD_S.of(sd[s, -3:]),
                rate_hz=tracks[s].rate_hz,
                samples=len(tracks[s].time_s),
                coverage=float(seen[s].mean()),
                tag_px=float(np.median(side_px[s][seen[s]])),
                reprojection_px=float(np.sqrt(np.mean(reprojection[s][ok] ** 2))),
                chi2=float((weight[s] * chi2[s])[ok].sum() / (3 * ok.sum())),
                outlier_share=float((chi2[s] > options.outlier_chi2)[ok].mean()),
                corners_px=sightings.corners_px[s],
                seen=seen[s],
                reprojection=np.where(seen[s], reprojection[s], np.nan),
                residual_rad=np.where(ok, residual[s], np.nan),
                R_camera_tag=R[s],
                orientation_sd_rad=R_sd[s],
                camera_speed=camera_speed[s],
                gyro_speed=gyro_speed[s],
                inside=inside[s],
            )
        )
    return tuple(found)


def _array(values: Tensor) -> Floats:
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float64)


def _sd(solution: Solution) -> Floats:
    return np.sqrt(np.maximum(_array(solution.covariance.diagonal()), 0.0))


def _carried(gyro: Gyro, solution: Solution, time_s: Tensor) -> Tensor:
    """(S, K, 3, 3) orientations at any video times, without a jump between legs."""
    state = solution.state
    heading = gyro.integrate(state.bias, state.shape).rotation(state.sensor_time_s(time_s))
    return state.R_camera_start[:, :1] @ heading @ state.R_sensor_tag[:, None]


def _smoothed(
    frame_s: Floats, row_s: Tensor, gyro: Gyro, solution: Solution, options: Options
) -> tuple[Floats, Floats]:
    """Orientations (S, K, 3, 3) in the camera and their standard deviations (S, K, 3).

    A rolling shutter sees each tag at a time of its own; the correction found there is put on
    what the gyroscope carries at the frame's time, the same for all tags.
    """
    R = solution.R_camera_tag
    seen = R @ so3.exp(-solution.residual)
    W = R @ (solution.information * solution.weight[..., None, None]) @ R.mT / REPEATED_FRAMES
    measured = so3.log(seen @ _carried(gyro, solution, row_s).mT)
    walk = np.deg2rad(options.smoothing_deg_sqrt_s) ** 2
    correction, covariance = smooth(frame_s, _array(measured), _array(W), walk)
    turn = Rotation.from_rotvec(correction.reshape(-1, 3)).as_matrix().reshape(R.shape)
    carried = _carried(gyro, solution, row_s.new_tensor(frame_s).expand_as(row_s))
    sd = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    return turn @ _array(carried), uncertainty.ORIENTATION_RAD.of(sd)


def _speed(time_s: Tensor, R: Tensor) -> Floats:
    """(S, K) rotation speed over ``SPEED_FRAMES`` frames to either side; NaN at both ends."""
    n = SPEED_FRAMES
    out = torch.full_like(time_s, torch.nan)
    if R.shape[1] > 2 * n:
        angle = so3.log(R[:, : -2 * n].mT @ R[:, 2 * n :]).norm(dim=-1)
        out[:, n:-n] = angle / (time_s[:, 2 * n :] - time_s[:, : -2 * n])
    return _array(out)


def _both_ends(known: Flags) -> Flags:
    """(S, K) whether both ends of a frame's speed span are known."""
    n = SPEED_FRAMES
    out = np.zeros_like(known)
    out[:, n:-n] = known[:, : -2 * n] & known[:, 2 * n :]
    return out
