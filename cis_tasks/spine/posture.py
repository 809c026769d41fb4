"""The posture over time: segments against gravity, the spine's two curves, and its course.

All of it is of the skin over the spine, under the sensors. None of it is a Cobb angle, which is
measured between vertebral endplates in a radiograph, and none of it is a diagnosis.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cis_tasks.spine.angles import cardan_rad
from cis_tasks.spine.calibration import Posture, SensorCalibration
from cis_tasks.spine.gravity import Gravity
from cis_tasks.spine.rig import Rig

Floats = NDArray[np.float64]

NOTICE = (
    "Angles and curves are those of the skin over the spine, under the sensors. They are not Cobb "
    "angles, and no diagnosis."
)
# Mean heights of vertebra and disc below it, m: Panjabi & White; enough to place levels.
HEIGHT_M = {"C": 0.019, "T": 0.0235, "L": 0.036}
LEVELS = tuple([f"C{n}" for n in range(1, 8)] + [f"T{n}" for n in range(1, 13)]) + tuple(
    f"L{n}" for n in range(1, 6)
)
SACRAL = ("sacrum", "s1", "s2", "pelvis")
COURSE_POINTS = 25


@dataclass(frozen=True)
class Curve:
    """A stretch of the spine whose bend in the sagittal plane has a name."""

    lower: int
    upper: int


def find_posture(
    rig: Rig,
    sensors: Sequence[SensorCalibration],
    axes: Sequence[Floats],
    gravity: Gravity | None,
) -> Posture:
    """Everything about the posture that the rig's segments allow.

    Args:
        rig: names the segments.
        sensors: calibrated, from the sacrum upwards.
        axes: ``R_tag_segment`` of each.
        gravity: up in the camera; without it there is no tilt.
    """
    R = np.array([s.R_camera_tag @ a for s, a in zip(sensors, axes, strict=True)])
    R[~np.array([sensor.inside for sensor in sensors])] = np.nan
    names = [sensor.segment for sensor in sensors]
    return Posture(
        segments=tuple(names),
        tilt_rad=_tilt(R, gravity),
        tilt_sd_rad=_tilt_sd(sensors, gravity),
        kyphosis_rad=_bend(R, kyphosis_of(names), forwards=1.0),
        lordosis_rad=_bend(R, lordosis_of(names), forwards=-1.0),
        course_m=course(R, spacings_m(rig, names)),
        notice=NOTICE,
    )


def _tilt(R_camera_segment: Floats, gravity: Gravity | None) -> Floats:
    """(S, K, 2) forward and rightward tilt of each segment's up axis from the vertical, rad."""
    if gravity is None:
        return np.full((*R_camera_segment.shape[:2], 2), np.nan)
    up = np.einsum("skji,j->ski", R_camera_segment, gravity.up_camera)
    forward = np.arctan2(-up[..., 0], up[..., 1])
    right = np.arcsin(np.clip(-up[..., 2], -1, 1))
    return np.stack([forward, right], -1)


def _tilt_sd(sensors: Sequence[SensorCalibration], gravity: Gravity | None) -> Floats:
    """(S, K) standard deviation of either tilt, rad."""
    own = np.array([np.sqrt((s.orientation_sd_rad**2).mean(1)) for s in sensors])
    return np.asarray(np.hypot(own, np.nan if gravity is None else gravity.sd_rad))


def kyphosis_of(names: Sequence[str]) -> Curve | None:
    """From the sensor nearest T12 up to the highest one of the thoracic spine."""
    levels = [_level(name) for name in names]
    lower = _nearest(levels, _require("T12"), within=(_require("T10"), _require("L1")))
    highest, lowest = _require("T1"), _require("T6")
    upper = [i for i, n in enumerate(levels) if n is not None and highest <= n <= lowest]
    return Curve(lower, upper[-1]) if lower is not None and upper else None


def lordosis_of(names: Sequence[str]) -> Curve | None:
    """From the sacrum or L5 up to the sensor nearest T12."""
    levels = [_level(name) for name in names]
    upper = _nearest(levels, _require("T12"), within=(_require("T10"), _require("L1")))
    lower = [i for i, name in enumerate(names) if name.lower() in SACRAL or name.upper() == "L5"]
    return Curve(lower[0], upper) if lower and upper is not None else None


def _level(name: str) -> int | None:
    """Place among the vertebrae from C1 down; None for other names."""
    found = re.fullmatch(r"([CTL])(\d+)", name.strip().upper())
    return LEVELS.index(found.group(0)) if found and found.group(0) in LEVELS else None


def _require(level: str) -> int:
    return LEVELS.index(level)


def _nearest(levels: Sequence[int | None], to: int, within: tuple[int, int]) -> int | None:
    known = [
        (abs(n - to), i)
        for i, n in enumerate(levels)
        if n is not None and within[0] <= n <= within[1]
    ]
    return min(known)[1] if known else None


def _bend(R: Floats, curve: Curve | None, forwards: float) -> Floats:
    """(K,) how far the upper segment bends forwards (or back) over the lower one, rad."""
    if curve is None:
        return np.full(R.shape[1], np.nan)
    relative = R[curve.lower].mT @ R[curve.upper]
    return np.asarray(forwards * cardan_rad(relative)[:, 0])


def spacings_m(rig: Rig, names: Sequence[str]) -> Floats:
    """(S−1,) distances along the back: the rig's, else those of a mean adult spine."""
    if rig.spacing_m:
        return np.array(rig.spacing_m)
    depth = [_depth_m(name) for name in names]
    return np.abs(np.diff(depth))


def _depth_m(name: str) -> float:
    """How far below the top of C1; names that are no level count as the sacrum."""
    level = _level(name)
    above = LEVELS[: len(LEVELS) if level is None else level]
    return sum(HEIGHT_M[other[0]] for other in above) + (0.03 if level is None else 0.0)


def course(R_camera_segment: Floats, spacing_m: Floats) -> Floats:
    """(K, COURSE_POINTS, 3) the line along the back, m, in the lowest segment's axes.

    Between two sensors the direction turns evenly from that of one to that of the other; its
    integral over the spacings is the line. NaN in frames where a segment is not known.
    """
    frames = R_camera_segment.shape[1]
    out = np.full((frames, COURSE_POINTS, 3), np.nan)
    known = np.isfinite(R_camera_segment).all((0, 2, 3))
    if len(spacing_m) == 0 or not known.any():
        return out
    R = R_camera_segment[:, known]
    relative = R[0].mT @ R  # (S, k, 3, 3) in the lowest segment
    arc = np.concatenate([[0.0], np.cumsum(spacing_m)])
    places = np.linspace(0, arc[-1], COURSE_POINTS)
    middles = (places[1:] + places[:-1]) / 2
    after = np.searchsorted(arc, middles).clip(1, len(arc) - 1)
    share = (middles - arc[after - 1]) / np.diff(arc)[after - 1].clip(1e-9)
    turns = relative[:-1].mT @ relative[1:]
    vectors = Rotation.from_matrix(turns.reshape(-1, 3, 3)).as_rotvec().reshape(*turns.shape[:2], 3)
    steps = share[:, None, None] * vectors[after - 1]
    part = Rotation.from_rotvec(steps.reshape(-1, 3)).as_matrix().reshape(*steps.shape[:2], 3, 3)
    tangents = (relative[after - 1] @ part)[..., 1]  # (points−1, k, 3): the up axes
    line = np.cumsum(tangents * np.diff(places)[:, None, None], axis=0)
    out[known] = np.concatenate([np.zeros_like(line[:1]), line]).swapaxes(0, 1)
    return out
