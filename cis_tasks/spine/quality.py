"""Quality gates: is the calibration to be trusted, and if not, why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cis_tasks.errors import PermanentError
from cis_tasks.spine.calibration import Calibration, Gate, SensorCalibration

MOVE = "Rotate every segment by ±30° about at least two axes, for 10–20 s, with the tags in view."
TOGETHER = (
    "Check that video and recording are of the same session, that no two sensors are swapped in "
    "the rig, and that every gyroscope is right-handed, in rad/s and within its range."
)


Sense = Literal["at_most", "at_least"]
Level = Literal["fail", "warn"]


@dataclass(frozen=True)
class _Rule:
    """A gate before it has seen a value."""

    name: str
    code: str
    unit: str
    sense: Sense
    level: Level
    what: str
    hint: str

    def judge(self, value: float, limit: float, where: str = "") -> Gate:
        at_most = self.sense == "at_most"
        passed = bool(value <= limit if at_most else value >= limit)
        shown, bound = (f"{number:.3g} {self.unit}".strip() for number in (value, limit))
        side = "most" if at_most else "least"
        # Name, value and limit stand beside it wherever a gate is shown: here is what they mean.
        why = f"{self.what}{where}" if passed else f"{self.what}{where}: {shown}, at {side} {bound}"
        return Gate(
            name=self.name,
            code=self.code,
            value=value,
            limit=limit,
            unit=self.unit,
            sense=self.sense,
            passed=passed,
            level=self.level,
            why=why,
            hint=self.hint,
        )


AGREEMENT = "video_and_sensors_disagree"
_CLOCKS = _Rule(
    "clocks agree",
    "offset_uncertain",
    "ms",
    "at_most",
    "fail",
    "standard deviation of the time offset",
    MOVE,
)
_MOUNTING = _Rule(
    "mounting is determined",
    "mounting_uncertain",
    "°",
    "at_most",
    "fail",
    "standard deviation of the mounting",
    MOVE,
)
_AGREEMENT = _Rule(
    "video and sensors agree",
    AGREEMENT,
    "",
    "at_most",
    "fail",
    "share of frames in which gyroscope and tag disagree",
    TOGETHER,
)
_COVERAGE = _Rule(
    "recording covers the video",
    "recording_partial",
    "",
    "at_least",
    "warn",
    "share of the video during which the sensor was recording",
    "Start the sensors before the video and stop them afterwards; angles are only given where "
    "both run.",
)
_VISIBILITY = _Rule(
    "tags are seen",
    "tag_seldom_seen",
    "",
    "at_least",
    "warn",
    "share of frames in which the tag is seen",
    "Keep the tags towards the camera; in between the gyroscope alone carries the angles.",
)
_SIZE = _Rule(
    "tags are large enough",
    "tag_small",
    "px",
    "at_least",
    "warn",
    "median side of the tag in the image",
    "Film from nearer, or print larger tags.",
)
_REPROJECTION = _Rule(
    "camera values fit",
    "reprojection_large",
    "px",
    "at_most",
    "warn",
    "RMS distance of the corners from the tag's pose",
    "Calibrate the camera at this zoom and resolution, and keep the tags flat.",
)


def check(calibration: Calibration) -> tuple[Gate, ...]:
    """Every gate, passed or not; what a job can fail on comes first, the likeliest cause first."""
    options, sensors = calibration.options, calibration.sensors
    return (
        _worst(_AGREEMENT, sensors, options.max_outlier_share, lambda s: s.outlier_share),
        _CLOCKS.judge(calibration.sync.offset_sd_s * 1e3, options.max_offset_sd_ms),
        _worst(_MOUNTING, sensors, options.max_mounting_sd_deg, _mounting_sd_deg),
        _worst(_COVERAGE, sensors, options.min_coverage, lambda s: float(s.inside.mean())),
        _worst(_VISIBILITY, sensors, options.min_visibility, lambda s: s.coverage),
        _worst(_SIZE, sensors, options.min_tag_px, lambda s: s.tag_px),
        _worst(_REPROJECTION, sensors, options.max_reprojection_px, lambda s: s.reprojection_px),
    )


def explain(gates: tuple[Gate, ...], faults: tuple[str, ...]) -> tuple[Gate, ...]:
    """Put what was recognised as the cause in front of the agreement gate's general hint."""
    return tuple(
        replace(gate, hint=" ".join((*faults, gate.hint))) if gate.code == AGREEMENT else gate
        for gate in gates
    )


def require_passed(calibration: Calibration) -> None:
    """Raise the first gate that the job fails on.

    Raises:
        PermanentError: with the gate's code; the message names every failed gate.
    """
    failed = [gate for gate in calibration.gates if not gate.passed and gate.level == "fail"]
    if failed:
        reasons = "; ".join(f"{gate.name}: {gate.why}" for gate in failed)
        raise PermanentError(
            failed[0].code,
            f"The calibration of {calibration.sensors_file} by {calibration.video.file} fails "
            f"its quality gates: {reasons}.",
            failed[0].hint,
        )


def _mounting_sd_deg(sensor: SensorCalibration) -> float:
    return float(np.rad2deg(sensor.mounting_sd_rad))


def _worst(
    rule: _Rule,
    sensors: Sequence[SensorCalibration],
    limit: float,
    measure: Callable[[SensorCalibration], float],
) -> Gate:
    """The gate on the sensor that does worst."""
    choose = max if rule.sense == "at_most" else min
    worst = choose(sensors, key=measure)
    return rule.judge(measure(worst), limit, f", {worst.sensor} with tag {worst.tag}")
