"""What the reader sees first: the verdict, the facts, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cis_tasks.spine.calibration import Calibration, Gate, SensorCalibration
from cis_tasks.spine.markup import Markup, element, join, name
from cis_tasks.spine.plots import NORMAL_95
from cis_tasks.spine.report.parts import sign
from cis_tasks.spine.report.words import capital, count, median, number, session_name, share, spread

CAVEAT = (
    "the angles are between patches of skin over the spine. They are not Cobb angles, and not a "
    "diagnosis."
)


def header_of(calibration: Calibration) -> Markup:
    """The verdict, the facts at a glance, and what was measured."""
    return element(
        "header",
        element("p", "Spine calibration", class_="kicker"),
        element("h1", name(session_name(calibration))),
        _verdict(calibration),
        _facts(calibration),
        element("p", *_story(calibration), class_="story"),
        element("p", element("strong", "Read with care: "), CAVEAT, class_="caveat"),
    )


def _verdict(calibration: Calibration) -> Markup:
    missed = [gate for gate in calibration.gates if not gate.passed]
    failed = [gate for gate in missed if gate.level == "fail"]
    if failed:
        return _refusal(failed)
    points = len(missed) + len(calibration.warnings)
    kind, verdict = ("warn", "Usable, with points to note") if points else ("pass", "Passed")
    told = [_tally(len(calibration.gates), len(missed))]
    if points:
        told.append(f"{count(points, 'point')} to note below.")
    text = element("div", element("strong", verdict), element("p", " ".join(told)))
    return element("div", sign(kind), text, class_=f"verdict {kind}")


def _refusal(failed: Sequence[Gate]) -> Markup:
    reasons = [
        element(
            "li",
            element("strong", capital(gate.name), " – no."),
            f" {capital(gate.why)}. {gate.hint}",
        )
        for gate in failed
    ]
    text = element(
        "div",
        element("strong", "Failed: do not use these angles"),
        element("p", f"{count(len(failed), 'required check')} not passed:"),
        element("ul", *reasons),
    )
    return element("div", sign("fail"), text, class_="verdict fail")


def _tally(checks: int, missed: int) -> str:
    if not checks:
        return "No quality checks were made."
    if not missed:
        return f"All {count(checks, 'quality check')} passed."
    return f"{checks - missed} of {count(checks, 'quality check')} passed, all required ones."


def _facts(calibration: Calibration) -> Markup:
    sensors, sync = calibration.sensors, calibration.sync
    residual = np.concatenate([sensor.residual_rad for sensor in sensors])
    facts = [
        ("Duration", f"{number(calibration.video.duration_s, '.1f')} s"),
        ("Each tag seen in at least", f"{share(min(s.coverage for s in sensors))} of frames"),
        ("Tags found", _tag_count(sensors)),
        ("Camera and sensors differ by", f"{number(median(np.rad2deg(residual)), '.2f')}°"),
        (
            "Clock offset",
            (
                f"{number(sync.offset_mid_s, '.4f')} s "
                f"± {number(NORMAL_95 * sync.offset_sd_s * 1e3, '.2g')} ms"
            ),
        ),
    ]
    pairs = [element("div", element("dt", term), element("dd", fact)) for term, fact in facts]
    return element("dl", *pairs, class_="facts")


def _tag_count(sensors: Sequence[SensorCalibration]) -> str:
    return f"{sum(bool(sensor.seen.any()) for sensor in sensors)} of {len(sensors)}"


def _story(calibration: Calibration) -> list[str]:
    video, sensors = calibration.video, calibration.sensors
    segments = join(*spread([name(sensor.segment) for sensor in sensors], ", "))
    told: list[str] = [
        f"{count(len(sensors), 'sensor')} on ", segments, " from ",
        name(calibration.sensors_file or "the recording"), " matched to ",
        f"{video.frames} frames of ", name(video.file),
        (f" ({video.width} × {video.height} pixels, {number(video.frame_rate_hz, '.3g')} per "
        "second)."),
    ]  # fmt: skip
    if video.damaged_frames:
        told.append(f" {count(video.damaged_frames, 'frame')} could not be decoded.")
    return told
