"""The report: one HTML file that shows a calibration, readable without network or scripts."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePath

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from cis_tasks.spine.calibration import (
    AngleSeries,
    Calibration,
    Floats,
    Gate,
    SensorCalibration,
    Thumbnail,
)
from cis_tasks.spine.markup import Markup, element, join, name
from cis_tasks.spine.plots import (
    ANGLES,
    NORMAL_95,
    alignment_plot,
    angle_plot,
    coverage_strip,
    liveliest,
    residual_plot,
)

THUMBNAIL_PX = 480
THUMBNAILS = 12
JPEG_QUALITY = 72
SHARES = frozenset({"video_and_sensors_disagree", "recording_partial", "tag_seldom_seen"})
# Nothing is fetched and nothing runs, even if something slipped through.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

CAVEAT = (
    "the angles are between patches of skin over the spine. They are not Cobb angles, and not a "
    "diagnosis."
)
LIMITS = (
    (
        "The tags and sensors sit on the skin. The angles are those between patches of skin over "
        "the spine, not between vertebrae; skin moves over bone, and no image of the bone was used."
    ),
    "The angles are not Cobb angles, and cannot be read as such.",
    (
        "This report is a measurement, not a diagnosis. What it means for a person is for a "
        "clinician to say, who knows the person and how the recording was made."
    ),
    (
        "The ±95 % bands hold the noise of the measurement alone: not the movement of the skin, "
        "nor how exactly the tags were stuck on."
    ),
)
METHOD = (
    "Each segment of the spine carries a motion sensor (IMU) with a printed AprilTag; a calibrated "
    "camera sees how the tags are turned while the sensors' gyroscopes measure how fast they turn. "
    "A robust least-squares fit over the whole session finds what makes the two agree: the offset "
    "and the rate between the clocks, and each sensor's bias and its mounting on its tag. "
    "Camera and gyroscope are then combined frame by frame, and the angles of each segment are "
    "taken relative to the one below it."
)


def write_report(calibration: Calibration, path: Path) -> None:
    """Write a calibration as one HTML file.

    The file needs nothing else: style, figures and pictures are inside, there are no scripts. It
    holds no dates and no folders, so that equal calibrations give equal bytes. A calibration
    whose gates are not passed is shown all the same, and says so at its top.

    Args:
        calibration: what to show.
        path: the file to write.
    """
    path.write_bytes(_page(calibration).encode("utf-8"))


@dataclass(frozen=True)
class _Section:
    anchor: str
    title: str
    body: Markup


def _page(calibration: Calibration) -> str:
    title = f"Spine calibration: {_session(calibration)}"
    style = files("cis_tasks.spine").joinpath("report.css").read_text(encoding="utf-8")
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="robots", content="noindex"),
        element("title", title),
        element("style", Markup(style)),
    )
    sections = _sections(calibration)
    parts = [
        _header(calibration),
        _contents(sections),
        element("main", *(_section(section) for section in sections)),
        element("footer", element("p", "Made by cis-tasks. Not a diagnosis.")),
    ]
    page = element("html", head, element("body", *parts), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _sections(calibration: Calibration) -> list[_Section]:
    """The report's parts in their order, less those that have nothing to show."""
    sections = (
        _Section("quality", "Quality checks", _gates(calibration)),
        _Section("warnings", "To note", _warnings(calibration)),
        _Section("angles", "Spinal angles", _angles(calibration)),
        _Section("agreement", "Do camera and sensors agree?", _alignment(calibration)),
        _Section("coverage", "When each tag was seen", _coverage(calibration)),
        _Section("detections", "What the camera saw", _contact_sheet(calibration)),
        _Section("sensors", "Sensors", _sensors(calibration)),
        _Section("limits", "What this report cannot say", _limits()),
        _Section("method", "Method and definitions", _method(calibration)),
    )
    return [section for section in sections if section.body]


def _section(section: _Section) -> Markup:
    heading = element("h2", section.title, id=f"{section.anchor}-title")
    return element(
        "section",
        heading,
        section.body,
        id=section.anchor,
        aria_labelledby=f"{section.anchor}-title",
    )


def _contents(sections: Iterable[_Section]) -> Markup:
    links = [
        element("li", element("a", section.title, href=f"#{section.anchor}"))
        for section in sections
    ]
    return element("nav", element("ul", *links), aria_label="Contents")


# What the reader sees first


def _header(calibration: Calibration) -> Markup:
    return element(
        "header",
        element("p", "Spine calibration", class_="kicker"),
        element("h1", name(_session(calibration))),
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
        told.append(f"{_count(points, 'point')} to note below.")
    text = element("div", element("strong", verdict), element("p", " ".join(told)))
    return element("div", _sign(kind), text, class_=f"verdict {kind}")


def _refusal(failed: Sequence[Gate]) -> Markup:
    reasons = [
        element(
            "li",
            element("strong", _capital(gate.name), " – no."),
            f" {_capital(gate.why)}. {gate.hint}",
        )
        for gate in failed
    ]
    text = element(
        "div",
        element("strong", "Failed: do not use these angles"),
        element("p", f"{_count(len(failed), 'required check')} not passed:"),
        element("ul", *reasons),
    )
    return element("div", _sign("fail"), text, class_="verdict fail")


def _tally(checks: int, missed: int) -> str:
    if not checks:
        return "No quality checks were made."
    if not missed:
        return f"All {_count(checks, 'quality check')} passed."
    return f"{checks - missed} of {_count(checks, 'quality check')} passed, all required ones."


def _facts(calibration: Calibration) -> Markup:
    sensors, sync = calibration.sensors, calibration.sync
    residual = np.concatenate([sensor.residual_rad for sensor in sensors])
    facts = [
        ("Duration", f"{_number(calibration.video.duration_s, '.1f')} s"),
        ("Each tag seen in at least", f"{_share(min(s.coverage for s in sensors))} of frames"),
        ("Tags found", _tag_count(sensors)),
        ("Camera and sensors differ by", f"{_number(_median(np.rad2deg(residual)), '.2f')}°"),
        (
            "Clock offset",
            (
                f"{_number(sync.offset_mid_s, '.4f')} s "
                f"± {_number(NORMAL_95 * sync.offset_sd_s * 1e3, '.2g')} ms"
            ),
        ),
    ]
    pairs = [element("div", element("dt", term), element("dd", fact)) for term, fact in facts]
    return element("dl", *pairs, class_="facts")


def _tag_count(sensors: Sequence[SensorCalibration]) -> str:
    return f"{sum(bool(sensor.seen.any()) for sensor in sensors)} of {len(sensors)}"


def _story(calibration: Calibration) -> list[str]:
    video, sensors = calibration.video, calibration.sensors
    segments = join(*_between([name(sensor.segment) for sensor in sensors], ", "))
    told: list[str] = [
        f"{_count(len(sensors), 'sensor')} on ", segments, " from ",
        name(calibration.sensors_file or "the recording"), " matched to ",
        f"{video.frames} frames of ", name(video.file),
        (f" ({video.width} × {video.height} pixels, {_number(video.frame_rate_hz, '.3g')} per "
        "second)."),
    ]  # fmt: skip
    if video.damaged_frames:
        told.append(f" {_count(video.damaged_frames, 'frame')} could not be decoded.")
    return told


# Sections


def _gates(calibration: Calibration) -> Markup:
    rows = [
        (
            join(_sign(_kind(gate)), " ", element("span", _outcome(gate))),
            element("span", _capital(gate.name)),
            _value(gate, gate.value),
            f"{'≤' if gate.sense == 'at_most' else '≥'} {_value(gate, gate.limit)}",
            _explained(gate),
        )
        for gate in calibration.gates
    ]
    return join(
        element("p", "A required check that is not passed makes the session unusable; the others "
                "ask for attention. Values are those of the sensor that does worst."),
        _table(("Result", "Check", "Found", "Needed", "What it says"), rows, numbers=(2, 3)),
    )  # fmt: skip


def _explained(gate: Gate) -> Markup:
    hint = [] if gate.passed else [element("br"), element("strong", gate.hint)]
    return element("span", _capital(gate.why), ".", *hint, class_="soft")


def _warnings(calibration: Calibration) -> Markup:
    if not calibration.warnings:
        return Markup("")
    return element("ul", *(element("li", warning) for warning in calibration.warnings))


def _angles(calibration: Calibration) -> Markup:
    if not calibration.angles:
        only = "There is a single sensor: angles are between neighbours, and it has none."
        return element("p", only)
    figures = [
        _figure(angle_plot(series, f"angles-{i}"), _angle_words(series), *_angle_caption(series))
        for i, series in enumerate(calibration.angles)
    ]
    return join(
        _not_for_use(calibration),
        element("p", "Each segment relative to the one below it. The ±95 % is that of a typical "
                "single value." + _beyond(calibration.angles)),
        _range_table(calibration.angles),
        element("div", *figures, class_="figures"),
    )  # fmt: skip


def _not_for_use(calibration: Calibration) -> Markup:
    if calibration.passed:
        return Markup("")
    why = "The session failed a required check: these angles only help to find out why."
    return element("p", _sign("fail"), " ", element("strong", "Not for use. "), why)


def _beyond(angles: Iterable[AngleSeries]) -> str:
    if any((np.abs(series.cardan_deg) > 180).any() for series in angles):
        return " Flexion and axial rotation run on beyond ±180° instead of jumping."
    return ""


def _range_table(angles: Iterable[AngleSeries]) -> Markup:
    titles = ("Pair", "Angle", "Lowest", "Highest", "Range", "Mean", "±95 %")
    head = [_column(title, number=i > 1) for i, title in enumerate(titles)]
    groups = []
    for series in angles:
        pair = element("th", name(series.name), scope="rowgroup", rowspan=str(len(ANGLES)))
        rows = []
        for i, (title, *values) in enumerate(_ranges(series)):
            numbers = [
                element("td", value, class_="number", data_label=label)
                for label, value in zip(titles[2:], values, strict=True)
            ]
            first = [] if i else [pair]
            rows.append(element("tr", *first, element("th", title, scope="row"), *numbers))
        groups.append(element("tbody", *rows))
    return _wide(element("table", element("thead", element("tr", *head)), *groups, class_="ranges"))


def _ranges(series: AngleSeries) -> list[tuple[str, ...]]:
    """Title, lowest, highest, range, mean and 95 % band of each angle, for people."""
    known = np.isfinite(series.cardan_deg).all(1) & ~series.gimbal
    rows = []
    for i, (title, _, _) in enumerate(ANGLES):
        angle = series.cardan_deg[known, i]
        low, high, mean = (
            (float(angle.min()), float(angle.max()), float(angle.mean()))
            if len(angle)
            else (math.nan, math.nan, math.nan)
        )
        half = NORMAL_95 * _median(np.rad2deg(series.sd_rad[known, i]))
        values = [_degrees(value) for value in (low, high, high - low, mean)]
        rows.append((title, *values, _degrees(half, ".2f")))
    return rows


def _angle_words(series: AngleSeries) -> str:
    """The figure for those who do not see it."""
    ranges = "; ".join(f"{title} from {low} to {high}" for title, low, high, *_ in _ranges(series))
    return f"Angles of {series.name} over time. {ranges}."


def _angle_caption(series: AngleSeries) -> list[str]:
    half = NORMAL_95 * _median(np.rad2deg(series.sd_rad))
    told: list[str] = [
        element("strong", name(series.cranial), " over ", name(series.caudal)),
        f". Band: ±95 %, typically ±{_number(half, '.2f')}°.",
    ]
    hidden = 1 - float(series.visible.mean())
    if hidden:
        told.append(f" Grey: a tag hidden ({_share(hidden)}), carried by the gyroscopes.")
    if series.gimbal.any():
        told.append(
            f" {_count(int(series.gimbal.sum()), 'frame')} bent near 90°, where flexion and axial "
            "rotation are not determined, left out."
        )
    return told


def _alignment(calibration: Calibration) -> Markup:
    time_s, sync = calibration.time_s, calibration.sync
    span = liveliest(time_s, calibration.sensors)
    part = (
        "" if span == slice(0, len(time_s))
        else f" The liveliest {time_s[span][-1] - time_s[span][0]:.0f} s are shown."
    )  # fmt: skip
    figures = []
    for i, sensor in enumerate(calibration.sensors):
        figures += [
            _figure(
                alignment_plot(time_s, sensor, span, f"speed-{i}"),
                f"Rotation speed of {_whose(sensor)} from camera and from gyroscope, over time.",
                _who(sensor),
                ". Wide: camera; thin: gyroscope, after alignment." + part,
            ),
            _figure(
                residual_plot(time_s, sensor, f"residual-{i}"),
                f"Angle between camera and gyroscope of {_whose(sensor)}, over time and as a "
                "histogram.",
                _who(sensor),
                f". Dashed: median {_number(_median(np.rad2deg(sensor.residual_rad)), '.2f')}°; "
                f"{_share(sensor.outlier_share)} of the frames are outliers. Grey: no tag seen.",
            ),
        ]
    clocks = (
        f"The sensors' clock reads {_number(sync.offset_mid_s, '.4f')} s (± "
        f"{_number(NORMAL_95 * sync.offset_sd_s * 1e3, '.2g')} ms) more than the video's in the "
        f"middle of the session, and runs {_number(abs(sync.rate_ppm), '.0f')} parts per million "
        f"{'faster' if sync.rate_ppm >= 0 else 'slower'}."
    )
    return join(
        element("p", "When the clocks are aligned, both tell the same speed, and the two lines lie "
                "on each other. ", clocks),
        element("div", *figures, class_="figures"),
    )  # fmt: skip


def _coverage(calibration: Calibration) -> Markup:
    rows = [
        element(
            "li",
            element("span", _who(sensor), class_="who"),
            element("span", _share(sensor.coverage), class_="share"),
            coverage_strip(calibration.time_s, sensor),
        )
        for sensor in calibration.sensors
    ]
    first, last = calibration.time_s[0], calibration.time_s[-1]
    ends = [element("span", f"{end:.1f} s") for end in (first, last)]
    return join(
        element("p", "Bars stand where the tag was seen; a gap or a low bar is a time when the "
                "gyroscope carried it. Orange: the sensor was not recording."),
        element("ul", *rows, class_="coverage"),
        element("div", *ends, class_="scale", aria_hidden="true"),
    )  # fmt: skip


def _contact_sheet(calibration: Calibration) -> Markup:
    if not calibration.thumbnails:
        return Markup("")
    segments = {sensor.tag: sensor.segment for sensor in calibration.sensors}
    sheet = [_thumbnail(shown, segments) for shown in calibration.thumbnails[:THUMBNAILS]]
    return join(
        element("p", "Frames of the video with the tags that were found; the dot marks a tag's "
                "own top left corner."),
        element("div", *sheet, class_="sheet"),
    )  # fmt: skip


def _thumbnail(shown: Thumbnail, segments: dict[int, str]) -> Markup:
    image, scale = shown.image, min(1.0, THUMBNAIL_PX / max(shown.image.shape))
    if scale < 1:
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, np.uint8)
    height, width = image.shape
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    data = base64.b64encode(jpeg.tobytes()).decode("ascii")
    tags = sorted(shown.corners_px)
    found = ", ".join(f"{tag} ({segments.get(tag, 'not in the rig')})" for tag in tags) or "none"
    picture = element(
        "img",
        src=f"data:image/jpeg;base64,{data}",
        alt=f"Video frame at {shown.time_s:.2f} s; tags found: {found}.",
        width=str(width),
        height=str(height),
    )
    drawn = [_outline(tag, shown.corners_px[tag] * scale, height) for tag in tags]
    overlay = element(
        "svg", *drawn, viewBox=f"-0.5 -0.5 {width} {height}", aria_hidden="true", focusable="false"
    )
    caption = element("figcaption", f"{shown.time_s:.2f} s · {_count(len(tags), 'tag')}")
    return element("figure", element("div", picture, overlay, class_="frame"), caption)


def _outline(tag: int, corners: Floats, height: int) -> Markup:
    middle = float(corners[:, 0].mean())
    below = float(corners[:, 1].max()) + 15
    line = below if below < height - 3 else float(corners[:, 1].min()) - 5
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in corners)
    return join(
        element("polygon", points=points),
        element("circle", cx=f"{corners[0, 0]:.1f}", cy=f"{corners[0, 1]:.1f}", r="3"),
        element("text", str(tag), x=f"{middle:.1f}", y=f"{line:.1f}"),
    )


def _sensors(calibration: Calibration) -> Markup:
    titles = (
        "Segment", "Sensor", "Tag seen", "Bias x, y, z", "Mounting of the tag", "Reprojection",
        "χ²", "Samples",
    )  # fmt: skip
    rows = [_sensor(sensor) for sensor in calibration.sensors]
    return join(
        element("p", "What was calibrated, sensor by sensor, from the lowest segment upwards. SD "
                "is a standard deviation as the fit gives it."),
        _table(titles, rows),
    )  # fmt: skip


def _sensor(sensor: SensorCalibration) -> tuple[str, ...]:
    bias, sd = np.rad2deg(sensor.gyro_bias), np.rad2deg(sensor.gyro_bias_sd)
    return (
        element("strong", name(sensor.segment)),
        _lines(name(sensor.sensor), f"tag {sensor.tag}"),
        _lines(_share(sensor.coverage), f"{_number(sensor.tag_px, '.0f')} px"),
        _lines(
            f"{', '.join(_number(float(b), '.3f') for b in bias)} °/s",
            f"SD {', '.join(_number(float(b), '.3f') for b in sd)}",
        ),
        _mounting(sensor),
        f"{_number(sensor.reprojection_px, '.2f')} px",
        _number(sensor.chi2, ".2f"),
        _lines(str(sensor.samples), f"{_number(sensor.rate_hz, '.1f')} Hz"),
    )


def _lines(first: str, second: str) -> Markup:
    return join(first, element("br"), element("span", second, class_="soft"))


def _mounting(sensor: SensorCalibration) -> Markup:
    if not np.isfinite(sensor.R_sensor_tag).all():
        return Markup("–")
    vector = Rotation.from_matrix(sensor.R_sensor_tag).as_rotvec()
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle else np.array([0.0, 0.0, 1.0])
    sd = _degrees(math.degrees(sensor.mounting_sd_rad), ".2f")
    about = ", ".join(_number(float(part), ".2f") for part in axis)
    return _lines(f"{_degrees(math.degrees(angle))} (SD {sd})", f"about ({about})")


def _limits() -> Markup:
    return join(
        element("ul", *(element("li", limit) for limit in LIMITS)),
    )


def _method(calibration: Calibration) -> Markup:
    terms = (
        (
            "Flexion",
            (
                "turning about the lower segment's axis to the right; bending forwards is "
                "positive, backwards negative."
            ),
        ),
        (
            "Lateral bending",
            (
                "turning about the axis to the front that is square to the other two; "
                "to the person's right is positive."
            ),
        ),
        (
            "Axial rotation",
            (
                "turning about the upper segment's axis towards the head; to the "
                "person's left is positive."
            ),
        ),
        (
            "Segment axes",
            (
                "x to the front, y towards the head, z to the right (ISB; Wu et al., "
                "J Biomech 35:543, 2002). The angles are Cardan angles in the order flexion, "
                "lateral bending, axial rotation (Grood & Suntay, J Biomech Eng 105:136, 1983). "
                f"{_zero(calibration)}"
            ),
        ),
        (
            "Disagreement",
            (
                "the angle between a tag as the camera sees it in a frame and as the "
                "gyroscope carries it there."
            ),
        ),
        ("Bias", "what a gyroscope reads at rest, in the sensor's own axes."),
        (
            "Mounting",
            ("the rotation that takes the tag's axes to the sensor's, as an angle about an axis."),
        ),
        (
            "Reprojection",
            (
                "root mean square distance in the image between a tag's corners as found "
                "and as its pose puts them."
            ),
        ),
        (
            "χ²",
            (
                "mean squared disagreement over its expected size: near 1 when the errors are as "
                "large as expected, below when they are smaller."
            ),
        ),
    )
    listed = [element("div", element("dt", term), element("dd", said)) for term, said in terms]
    return join(
        element("p", METHOD),
        element("dl", *listed, class_="terms"),
    )


def _zero(calibration: Calibration) -> str:
    rig = calibration.rig
    given = [tag.R_tag_segment is not None for _, tag in rig.ordered_tags]
    if all(given):
        return "Zero is where the axes that the rig gives for the segments are parallel."
    if rig.neutral_s:
        start, end = rig.neutral_s
        return f"Zero is the neutral pose between {start:g} and {end:g} s of the video."
    return "Zero is where the tags are parallel, as if all were stuck upright on the back."


# Parts


def _figure(plot: Markup, words: str, *caption: str) -> Markup:
    shown = element("div", plot, role="img", aria_label=words)
    return element("figure", shown, element("figcaption", *caption))


def _table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()
) -> Markup:
    """A table whose rows become cards on a narrow screen, each value beside its title."""

    def cell(i: int, value: str) -> Markup:
        kind = {"class_": "number"} if i in numbers else {}
        return element("td", element("span", value), data_label=titles[i], **kind)

    head = [_column(title, number=i in numbers) for i, title in enumerate(titles)]
    body = [element("tr", *(cell(i, value) for i, value in enumerate(row))) for row in rows]
    parts = (element("thead", element("tr", *head)), element("tbody", *body))
    return _wide(element("table", *parts, class_="cards"))


def _column(title: str, *, number: bool) -> Markup:
    kind = {"class_": "number"} if number else {}
    return element("th", title, scope="col", **kind)


def _wide(table: Markup) -> Markup:
    return element("div", table, class_="wide")


_SIGNS = {"pass": "✓", "warn": "!", "fail": "✗"}


def _sign(kind: str) -> Markup:
    return element("span", _SIGNS[kind], class_=f"sign {kind}", aria_hidden="true")


def _kind(gate: Gate) -> str:
    return "pass" if gate.passed else gate.level


def _outcome(gate: Gate) -> str:
    if gate.passed:
        return "Passed"
    return "Failed" if gate.level == "fail" else "Attention"


def _who(sensor: SensorCalibration) -> Markup:
    return join(
        element("strong", name(sensor.segment)), f" (tag {sensor.tag}, ", name(sensor.sensor), ")"
    )


def _whose(sensor: SensorCalibration) -> str:
    return f"{sensor.segment}, tag {sensor.tag}, sensor {sensor.sensor}"


def _session(calibration: Calibration) -> str:
    return PurePath(calibration.sensors_file or calibration.video.file).stem or "session"


# Numbers and words


def _value(gate: Gate, value: float) -> str:
    if gate.code in SHARES:
        return _share(value)
    gap = "" if gate.unit in {"", "°"} else " "
    return f"{_number(value, '.3g')}{gap}{gate.unit}"


def _number(value: float, form: str) -> str:
    if not math.isfinite(value):
        return "–"
    shown = format(value, form)
    return shown.lstrip("-") if float(shown) == 0 else shown.replace("-", "−")


def _degrees(value: float, form: str = ".1f") -> str:
    return f"{_number(value, form)}°" if math.isfinite(value) else "–"


def _share(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    percent = 100 * value
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f}".removesuffix(".0") + " %"


def _median(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _between(parts: Sequence[str], separator: str) -> list[str]:
    spread = [separator] * (2 * len(parts) - 1)
    spread[::2] = parts
    return spread
