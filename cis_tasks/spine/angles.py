"""Spinal angles: each segment relative to the one below it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cis_tasks.errors import PermanentError
from cis_tasks.spine.calibration import AngleSeries, SensorCalibration
from cis_tasks.spine.rig import Rig

Floats = NDArray[np.float64]
_Mask = NDArray[np.bool_]

LEAST_BEND_RAD = np.deg2rad(5.0)  # root mean square; below, sway decides the axis
GIMBAL_RAD = np.deg2rad(85.0)  # beyond, flexion and axial rotation cannot be told apart
# A tag stuck upright on the back: its x (right), y (up), z (out of the back) in the segment's
# ISB axes (x front, y up, z right). Columns: the segment's axes in the tag.
R_UPRIGHT_TAG_SEGMENT = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


def spinal_angles(
    rig: Rig,
    time_s: Floats,
    sensors: tuple[SensorCalibration, ...],
    axes: tuple[Floats, ...] | None = None,
) -> tuple[AngleSeries, ...]:
    """Angles of each neighbouring pair, from the sacrum upwards.

    Args:
        rig: gives the segments' axes in their tags, where it knows them.
        time_s: (K,) frame times.
        sensors: in the rig's order.
        axes: ``R_tag_segment`` of each; left out, those of ``segment_axes``.
    """
    axes = segment_axes(rig, time_s, sensors) if axes is None else axes
    return tuple(
        _pair(time_s, sensors[i], sensors[i + 1], axes[i], axes[i + 1])
        for i in range(len(sensors) - 1)
    )


def segment_axes(
    rig: Rig,
    time_s: Floats,
    sensors: tuple[SensorCalibration, ...],
    up_camera: Floats | None = None,
) -> tuple[Floats, ...]:
    """(3, 3) ``R_tag_segment`` of each sensor's tag.

    The rig's where it has one. Else from the neutral pose: with a functional flexion and gravity,
    up is against gravity and right is the axis of bending forwards; with the pose alone, all
    segments are aligned with the lowest one. Else those of a tag stuck upright on the back.

    Args:
        rig: what is known of the tags.
        time_s: (K,) frame times.
        sensors: in the rig's order.
        up_camera: (3,) against gravity in camera axes, where accelerometers tell.

    Raises:
        PermanentError: ``neutral_pose_outside`` or ``flexion_outside``.
    """
    given = [tag.R_tag_segment for _, tag in rig.ordered_tags]
    known = [None if matrix is None else np.array(matrix, dtype=np.float64) for matrix in given]
    if rig.neutral_s is None:
        return tuple(R_UPRIGHT_TAG_SEGMENT if R is None else R for R in known)
    pose = _neutral(rig, time_s, sensors)
    means = [_mean(sensor, pose) for sensor in sensors]
    if rig.flexion_s is not None and up_camera is not None:
        bending = _flexion(rig, time_s, sensors)
        found = [
            functional_axes(R, sensor.R_camera_tag[bending & sensor.inside], up_camera)
            for R, sensor in zip(means, sensors, strict=True)
        ]
    else:
        lowest = R_UPRIGHT_TAG_SEGMENT if known[0] is None else known[0]
        found = [R.T @ means[0] @ lowest for R in means]
    return tuple(own if R is None else R for R, own in zip(known, found, strict=True))


def functional_axes(R_neutral: Floats, R_bending: Floats, up_camera: Floats) -> Floats:
    """``R_tag_segment`` from standing still and bending forwards.

    Up is against gravity in the neutral pose; right is the axis about which the tag turns most
    while bending, taken at a right angle to up.

    Args:
        R_neutral: (3, 3) the tag in the camera, in the neutral pose.
        R_bending: (K, 3, 3) the same while bending.
        up_camera: (3,).

    Raises:
        PermanentError: ``flexion_too_small``.
    """
    turns = Rotation.from_matrix(R_neutral.T @ R_bending).as_rotvec()
    strength, axes = np.linalg.eigh(turns.T @ turns / len(turns))
    if np.sqrt(strength[-1]) < LEAST_BEND_RAD:
        raise PermanentError(
            "flexion_too_small",
            f"During the rig's flexion the segments turn by {np.rad2deg(np.sqrt(strength[-1])):.1f}"
            f"° only.",
            "Bend forwards by 20° at least, or give another flexion_s.",
        )
    up = R_neutral.T @ up_camera
    right = axes[:, -1] * np.sign(axes[0, -1] or 1.0)  # a tag's x points to the person's right
    right = right - up * (right @ up)
    right /= np.linalg.norm(right)
    return np.stack([np.cross(up, right), up, right], -1)


def _neutral(rig: Rig, time_s: Floats, sensors: tuple[SensorCalibration, ...]) -> _Mask:
    found = _within(rig.neutral_s, time_s, sensors)
    if found is None:
        raise PermanentError("neutral_pose_outside", *_not_covered("neutral_s", rig.neutral_s))
    return found


def _flexion(rig: Rig, time_s: Floats, sensors: tuple[SensorCalibration, ...]) -> _Mask:
    found = _within(rig.flexion_s, time_s, sensors)
    if found is None:
        raise PermanentError("flexion_outside", *_not_covered("flexion_s", rig.flexion_s))
    return found


def _within(
    span: tuple[float, float] | None, time_s: Floats, sensors: tuple[SensorCalibration, ...]
) -> _Mask | None:
    """Frames in a span; None where some sensor has none of them."""
    start, end = span or (np.inf, -np.inf)
    inside = np.asarray((time_s >= start) & (time_s <= end))
    return inside if all((sensor.inside & inside).any() for sensor in sensors) else None


def _not_covered(field: str, span: tuple[float, float] | None) -> tuple[str, str]:
    start, end = span or (np.nan, np.nan)
    return (
        f"The rig's {field}, {start:g}–{end:g} s, is not covered by video and recording.",
        f"Give {field} in video time, within the part that both cover.",
    )


def _mean(sensor: SensorCalibration, pose: _Mask) -> Floats:
    rotations = Rotation.from_matrix(sensor.R_camera_tag[pose & sensor.inside])
    return np.asarray(rotations.mean().as_matrix())


def _pair(
    time_s: Floats,
    caudal: SensorCalibration,
    cranial: SensorCalibration,
    axes_caudal: Floats,
    axes_cranial: Floats,
) -> AngleSeries:
    R_camera_caudal = caudal.R_camera_tag @ axes_caudal
    R = R_camera_caudal.mT @ (cranial.R_camera_tag @ axes_cranial)
    R[~(caudal.inside & cranial.inside)] = np.nan
    cardan = cardan_rad(R)
    variance = caudal.orientation_sd_rad**2 + cranial.orientation_sd_rad**2
    return AngleSeries(
        caudal=caudal.segment,
        cranial=cranial.segment,
        time_s=time_s,
        R_caudal_cranial=R,
        cardan_rad=cardan,
        sd_rad=_cardan_sd(cardan, R_camera_caudal, variance),
        gimbal=np.abs(cardan[:, 1]) > GIMBAL_RAD,
        visible=caudal.seen & cranial.seen,
    )


def cardan_rad(R_caudal_cranial: Floats) -> Floats:
    """(K, 3, 3) relative rotations to (K, 3) flexion, lateral bending, axial rotation, rad.

    About the caudal right axis (z), then the floating front axis (x), then the cranial up axis
    (y), as in Grood & Suntay, J Biomech Eng 105:136, 1983, and the ISB's recommendation.
    Flexion is positive forwards, bending to the right, axial rotation to the left; flexion and
    axial rotation within ±180°, bending within ±90°. NaN stays NaN.
    """
    R = R_caudal_cranial  # = Rz(extension) Rx(bending) Ry(axial)
    extension = np.arctan2(-R[:, 0, 1], R[:, 1, 1])
    bending = np.arcsin(np.clip(R[:, 2, 1], -1.0, 1.0))
    axial = np.arctan2(-R[:, 2, 0], R[:, 2, 2])
    return np.stack([-extension, bending, axial], -1)


def _cardan_sd(cardan: Floats, R_camera_caudal: Floats, variance: Floats) -> Floats:
    """Propagate the variances of a small rotation in camera axes to the three angles."""
    extension, bending = -cardan[:, 0], cardan[:, 1]
    zero, one = np.zeros_like(extension), np.ones_like(extension)
    floating = np.stack([np.cos(extension), np.sin(extension), zero], -1)
    up = np.stack(
        [
            -np.sin(extension) * np.cos(bending),
            np.cos(extension) * np.cos(bending),
            np.sin(bending),
        ],
        -1,
    )
    right = np.stack([zero, zero, one], -1)
    axes = np.stack([right, floating, up], -1)  # columns: what each angle's rate turns about
    to_camera = R_camera_caudal @ axes
    good = np.isfinite(to_camera).all((1, 2)) & (np.abs(bending) < GIMBAL_RAD)
    sd = np.full_like(cardan, np.nan)
    inverse = np.linalg.inv(to_camera[good])
    sd[good] = np.sqrt(np.einsum("kij,kj->ki", inverse**2, variance[good]))
    return sd
