"""The whole page, from its parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

from cis_tasks.spine.calibration import Calibration
from cis_tasks.spine.markup import Markup, element
from cis_tasks.spine.report.agreement import show_agreement, show_coverage
from cis_tasks.spine.report.angles import show_angles
from cis_tasks.spine.report.checks import list_checks, list_warnings
from cis_tasks.spine.report.detections import show_frames
from cis_tasks.spine.report.head import header_of
from cis_tasks.spine.report.method import explain, list_limits
from cis_tasks.spine.report.posture import show_posture
from cis_tasks.spine.report.sensors import list_sensors
from cis_tasks.spine.report.words import session_name

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class _Section:
    anchor: str
    title: str
    body: Markup


def page_of(calibration: Calibration) -> str:
    """The report as HTML text."""
    title = f"Spine calibration: {session_name(calibration)}"
    style = files("cis_tasks.spine.report").joinpath("report.css").read_text(encoding="utf-8")
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
        header_of(calibration),
        _contents(sections),
        element("main", *(_section(section) for section in sections)),
        element("footer", element("p", "Made by cis-tasks. Not a diagnosis.")),
    ]
    page = element("html", head, element("body", *parts), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _sections(calibration: Calibration) -> list[_Section]:
    """The report's parts in their order, less those that have nothing to show."""
    checks = _Section("quality", "Quality checks", list_checks(calibration))
    angles = _Section("angles", "Spinal angles", show_angles(calibration))
    posture = _Section("posture", "Posture", show_posture(calibration))
    first = (angles, posture, checks) if calibration.passed else (checks, angles, posture)
    sections = (
        _Section("warnings", "To note", list_warnings(calibration)),
        *first,
        _Section("agreement", "Do camera and sensors agree?", show_agreement(calibration)),
        _Section("coverage", "When each tag was seen", show_coverage(calibration)),
        _Section("detections", "What the camera saw", show_frames(calibration)),
        _Section("sensors", "Sensors", list_sensors(calibration)),
        _Section("limits", "What this report cannot say", list_limits()),
        _Section("method", "Method and definitions", explain(calibration)),
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
