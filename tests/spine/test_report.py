from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest

from cis_tasks.spine.calibration import Calibration, Gate, Thumbnail
from cis_tasks.spine.procedure import calibrate_sightings
from cis_tasks.spine.report import write_report

HOSTILE = '<script>alert("1")</script>&\'"><img src=x onerror=alert(1)>'
VOID = {"br", "img", "link", "meta"}
FETCHING = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """The page as a browser reads it; every element has to be closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]


def written(calibration: Calibration, path: Path) -> str:
    write_report(calibration, path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def calibration(session, cpu) -> Calibration:
    made = session(sensors=3, duration_s=6, corner_sd_px=0.1, gyro_sd=0.005)
    found = calibrate_sightings(made.recording, made.sightings, made.rig, cpu)
    corners = {0: np.array([[20.0, 20.0], [60.0, 20.0], [60.0, 60.0], [20.0, 60.0]])}
    image = np.full((90, 160), 120, np.uint8)
    return replace(found, thumbnails=(Thumbnail(1.5, image, corners),))


@pytest.fixture(scope="module")
def page(calibration, tmp_path_factory) -> Page:
    return Page(written(calibration, tmp_path_factory.mktemp("report") / "report.html"))


def test_the_page_shows_verdict_pairs_sensors_limits_and_method(calibration, page):
    assert "Passed" in page.text
    for gate in calibration.gates:
        assert gate.name.lower() in page.text.lower()
    for sensor in calibration.sensors:
        assert sensor.sensor in page.text
    for series in calibration.angles:
        assert f"{series.cranial} over {series.caudal}" in page.text
    for words in ("not Cobb angles", "not a diagnosis", "skin", "least-squares", "Axial rotation"):
        assert words in page.text


def test_the_ranges_are_those_of_the_angles(calibration, page):
    for series in calibration.angles:
        for column in series.cardan_deg.T:
            for value in (column.min(), column.max()):
                assert f"{value:.1f}°".replace("-", "\N{MINUS SIGN}") in page.text


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(page):
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name.rpartition(":")[2] in FETCHING:
                assert (value or "").startswith(("data:image/jpeg;base64,", "#"))
    assert not {tag for tag, _ in page.elements} & {"script", "iframe", "object", "link", "form"}


def test_styles_fetch_nothing(calibration, tmp_path):
    text = written(calibration, tmp_path / "report.html")
    assert not re.findall(r"url\((?!#)|@import|https?://", text)


def test_readers_who_do_not_see_the_figures_are_told_them(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("figure")) == len(page.all("figcaption")) > 0
    assert all(image["alt"] for image in page.all("img"))
    for drawing in page.all("svg"):
        assert drawing.get("aria-label") or drawing.get("aria-hidden") == "true"


def test_the_page_fits_a_phone_and_paper(calibration, page, tmp_path):
    viewports = [meta["content"] for meta in page.all("meta") if meta.get("name") == "viewport"]
    assert viewports == ["width=device-width, initial-scale=1"]
    assert "@media print" in written(calibration, tmp_path / "report.html")


def test_drawings_are_well_formed_and_an_id_means_one_thing(calibration, tmp_path):
    text = written(calibration, tmp_path / "report.html")
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) >= 2 * len(calibration.sensors) + len(calibration.angles)
    owners: dict[str, str] = {}
    for drawing in drawings:
        nodes = list(ET.fromstring(drawing).iter())
        own = {
            node.attrib["id"]: ET.tostring(node, "unicode") for node in nodes if "id" in node.attrib
        }
        for node in nodes:
            wanted = re.findall(r"url\(#([^)]+)\)", " ".join(node.attrib.values()))
            assert set(wanted) <= set(own)
        for identity, definition in own.items():  # the page's first one is what a browser takes
            assert owners.setdefault(identity, definition) == definition


def test_detections_are_shown_as_pictures(page):
    (shown,) = page.all("img")
    data = base64.b64decode((shown["src"] or "").partition(",")[2])
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[:2] == (90, 160)


def test_names_are_text_whatever_they_hold(calibration, tmp_path):
    sensors = tuple(replace(s, sensor=HOSTILE, segment=HOSTILE) for s in calibration.sensors)
    angles = tuple(replace(a, caudal=HOSTILE, cranial=HOSTILE) for a in calibration.angles)
    hostile = replace(
        calibration,
        sensors=sensors,
        angles=angles,
        warnings=(HOSTILE,),
        sensors_file=f"{HOSTILE}.csv",
        video=replace(calibration.video, file=f"{HOSTILE}.mp4"),
        gates=tuple(replace(gate, why=HOSTILE, hint=HOSTILE) for gate in calibration.gates),
    )
    text = written(hostile, tmp_path / "report.html")
    page = Page(text)
    assert "<script" not in text
    assert "<img src=x" not in text
    assert len(page.all("img")) == 1
    assert '<script>alert("1")</script>' in page.text


def test_a_failed_gate_leads_the_page_with_its_hint(calibration, tmp_path):
    failed = Gate(
        name="clocks agree",
        code="offset_unknown",
        value=35.0,
        limit=2.0,
        unit="ms",
        sense="at_most",
        passed=False,
        level="fail",
        why="the offset is known to 35 ms only",
        hint="Rotate by 30° about two axes.",
    )
    text = written(replace(calibration, gates=(*calibration.gates, failed)), tmp_path / "r.html")
    page = Page(text)
    assert page.text.index("do not use these angles") < page.text.index("Quality checks")
    assert page.text.index("Rotate by 30° about two axes.") < page.text.index("Quality checks")


def test_warnings_are_shown(calibration, tmp_path):
    noted = replace(calibration, warnings=("imu2 shows a tag of 20 px only.",))
    page = Page(written(noted, tmp_path / "report.html"))
    assert "imu2 shows a tag of 20 px only." in page.text
    assert "Usable, with points to note" in page.text


def test_frames_without_a_tag_or_an_angle_do_not_stop_the_report(calibration, tmp_path):
    gone = np.zeros(len(calibration.time_s), bool)
    unknown = np.full(len(calibration.time_s), np.nan)
    sensors = tuple(
        replace(s, seen=gone, coverage=0.0, residual_rad=unknown, camera_speed=unknown)
        for s in calibration.sensors
    )
    angles = tuple(
        replace(a, cardan_rad=np.full_like(a.cardan_rad, np.nan), visible=gone)
        for a in calibration.angles
    )
    blind = replace(calibration, sensors=sensors, angles=angles, thumbnails=())
    assert "0 of 3" in Page(written(blind, tmp_path / "report.html")).text


def test_a_single_sensor_has_no_angles_and_says_so(session, cpu, tmp_path):
    made = session(sensors=1, duration_s=5)
    alone = calibrate_sightings(made.recording, made.sightings, made.rig, cpu)
    assert "single sensor" in Page(written(alone, tmp_path / "report.html")).text


def test_the_same_calibration_gives_the_same_bytes(calibration, tmp_path):
    for part in ("first", "second"):
        write_report(calibration, tmp_path / part)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_long_session_stays_a_small_file(session, cpu, tmp_path):
    made = session(sensors=4, duration_s=120, corner_sd_px=0.1, gyro_sd=0.005)
    long = calibrate_sightings(made.recording, made.sightings, made.rig, cpu)
    write_report(long, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 3e6
