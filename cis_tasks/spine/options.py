"""The tunables of a calibration, each with its unit and the reason for its default."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cis_tasks.errors import PermanentError
from cis_tasks.params import read_params


@dataclass(frozen=True)
class Options:
    """How a calibration is done.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; where the solver runs. ``auto`` takes
            CUDA where there is one.
        refine: ``apriltag`` (the outline's edges), ``photometric`` (the whole printed pattern, see
            ``photometric``: half the error, some ten times the computing), or ``auto``:
            photometric on CUDA, apriltag elsewhere.
        full_search_frames: the whole image is searched for tags every so many frames; half a
            second at 30 Hz finds a tag again soon and costs little.
        roi_margin: how far around its last place a tag is looked for, in tag sides; at 30 Hz a
            tag moves less than half its side in a frame unless the blur hides it anyway.
        min_overlap_s: least time that recording and video share; below it offset and mounting
            are not determined.
        max_rate_ppm: prior standard deviation of the clocks' relative rate, parts per million;
            consumer crystals stay within 100, video clocks within 1000.
        max_bias_deg_s: prior standard deviation of the gyroscope bias, °/s per axis; consumer
            gyroscopes stay below 5.
        max_gyro_shape: prior standard deviation of the gyroscopes' scale and skew, as a share; 0
            takes their axes as perfect. Worth 0.01 for fast, long and varied motion; in a short
            session it cannot be told from the mounting and makes that worse.
        orientation_floor_deg: error of a tag's orientation beyond corner noise (lens, flatness),
            ° per axis.
        robust_chi2: squared residual, in its standard deviations, at which a frame's weight
            halves (Cauchy); 9 is three standard deviations.
        outlier_chi2: squared residual beyond which camera and gyroscope disagree; five standard
            deviations.
        leg_s: a longer session is solved in legs of about this length, s; within 30 s a
            gyroscope's bias is as good as constant.
        max_iterations: of the solver; it converges in about ten.
        smoothing_deg_sqrt_s: random walk of the gyroscope-carried orientation, °/√s; what
            integration drifts between frames beside a constant bias: noise, and in motion the
            errors of scale and axes; 0.4 is best for recorded motion of 30–180 °/s.
        max_offset_sd_ms: gate, offset not observable beyond, ms.
        max_mounting_sd_deg: gate, mounting not observable beyond, °.
        max_outlier_share: gate; good sessions stay below 0.08, wrong ones above 0.6.
        min_visibility: gate (warning), share of the frames in which a tag is seen.
        min_tag_px: gate (warning), median side of a tag, pixels; below 25 the corners lose more
            than the gyroscope can give back.
        max_reprojection_px: gate (warning); more means wrong camera values or a bent tag.
        min_coverage: gate (warning), share of the video that the recording covers.
        max_bad_rows: share of a recording's rows that may be unusable.
        max_gap_s: longest hole in a recording, s; within it the gyroscope is interpolated.
        overlay: whether the pipeline draws the result on the video as well; changes no result.
    """

    device: str = "auto"
    refine: str = "auto"
    full_search_frames: int = 15
    roi_margin: float = 0.5
    min_overlap_s: float = 3.0
    max_rate_ppm: float = 1000.0
    max_bias_deg_s: float = 5.0
    max_gyro_shape: float = 0.0
    orientation_floor_deg: float = 0.115
    robust_chi2: float = 9.0
    outlier_chi2: float = 25.0
    leg_s: float = 30.0
    max_iterations: int = 40
    smoothing_deg_sqrt_s: float = 0.4
    max_offset_sd_ms: float = 2.0
    max_mounting_sd_deg: float = 1.0
    max_outlier_share: float = 0.3
    min_visibility: float = 0.5
    min_tag_px: float = 25.0
    max_reprojection_px: float = 2.0
    min_coverage: float = 0.9
    max_bad_rows: float = 0.05
    max_gap_s: float = 0.1
    overlay: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if problem := _problem(name, value):
                raise PermanentError(
                    "params_invalid",
                    f"The parameter {name}={value!r} makes no sense: {problem}.",
                    "Leave it out to use the default.",
                )

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Options:
        """Options from a job's parameters.

        Raises:
            PermanentError: ``params_unknown`` or ``params_invalid``.
        """
        return read_params(cls, params, "spine")


REFINEMENTS = ("auto", "apriltag", "photometric")
_COUNTS = ("full_search_frames", "max_iterations")
_SHARES = ("max_outlier_share", "min_visibility", "min_coverage", "max_bad_rows", "max_gyro_shape")


def _is_device(value: object) -> bool:
    return isinstance(value, str) and (
        value in ("auto", "cpu", "cuda") or value.removeprefix("cuda:").isdecimal()
    )


_NO_NUMBERS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "device": (_is_device, "it must be auto, cpu, cuda or cuda:N"),
    "refine": (lambda value: value in REFINEMENTS, f"it must be one of {', '.join(REFINEMENTS)}"),
    "overlay": (lambda value: isinstance(value, bool), "it must be true or false"),
}


def _problem(name: str, value: object) -> str:
    if name in _NO_NUMBERS:
        good, rule = _NO_NUMBERS[name]
        return "" if good(value) else rule
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "it must be a number"
    if name in _COUNTS and (not isinstance(value, int) or value < 1):
        return "it must be a whole number of at least 1"
    if name in _SHARES:
        return "" if 0 <= value <= 1 else "it must be between 0 and 1"
    return "" if value > 0 else "it must be positive"
