"""The report as a reader's browser takes it: parsed, not searched for its own markup."""

from __future__ import annotations

import base64
import re
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import cv2
import matplotlib as mpl
import numpy as np
import pytest

from cis_tasks.spine.calibration import Thumbnail
from cis_tasks.spine.outputs import summarise
from cis_tasks.spine.plots import BLUE, angle_plot, coverage_strip
from cis_tasks.spine.procedure import calibrate_sightings
from cis_tasks.spine.report import write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
FETCHING = {"src", "href", "srcset", "data", "action", "poster", "background"}
LARGEST = 3_000_000
CORNERS = np.array([[40.0, 30.0], [80.0, 34.0], [76.0, 74.0], [36.0, 70.0]])


@pytest.fixture(scope="module")
def calibration(session, cpu):
    made = session(sensors=3, duration_s=6, corner_sd_px=0.1, gyro_sd=0.005)
    found = calibrate_sightings(made.recording, made.sightings, made.rig, cpu)
    grey = np.tile(np.arange(160, dtype=np.uint8), (90, 1))
    return replace(found, thumbnails=(Thumbnail(1.5, grey, {0: CORNERS, 2: CORNERS + 5}),))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Write a calibration's report and read it as a page."""
    folder = tmp_path_factory.mktemp("report")

    def write(calibration) -> Page:
        path = folder / "report.html"
        write_report(calibration, path)
        return Page.read(path.read_bytes())

    return write


@pytest.fixture(scope="module")
def page(calibration, report):
    return report(calibration)


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@dataclass
class Page(HTMLParser):
    source: bytes
    nodes: list[Node] = field(default_factory=list)
    open: list[Node] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, source: bytes) -> Page:
        page = cls(source)
        HTMLParser.__init__(page)
        page.feed(source.decode("utf-8"))
        page.close()
        page.problems += [f"<{node.tag}> left open" for node in page.open]
        return page

    def handle_starttag(self, tag, attrs):
        node = Node(tag, dict(attrs))
        if len(node.attributes) < len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice")
        self.nodes.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.nodes.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1].tag != tag:
            self.problems.append(f"</{tag}> closes {self.open[-1].tag if self.open else 'nothing'}")
        else:
            self.open.pop()

    def handle_data(self, data):
        for node in self.open:
            node.words.append(data)

    def all(self, tag: str, **attributes: str) -> list[Node]:
        return [
            node
            for node in self.nodes
            if node.tag == tag and attributes.items() <= node.attributes.items()
        ]

    def one(self, tag: str, **attributes: str) -> Node:
        (node,) = self.all(tag, **attributes)
        return node


def with_gate(calibration, code, **changes):
    """The calibration with one gate changed."""
    gates = tuple(replace(g, **changes) if g.code == code else g for g in calibration.gates)
    return replace(calibration, gates=gates)


def with_frames(calibration, change):
    """The calibration with every per-frame array changed."""
    K = len(calibration.time_s)

    def changed(part):
        arrays = {f.name: getattr(part, f.name) for f in fields(part)}
        per_frame = {
            name: change(value)
            for name, value in arrays.items()
            if isinstance(value, np.ndarray) and value.shape[:1] == (K,)
        }
        return replace(part, **per_frame)

    return replace(
        changed(calibration),
        sensors=tuple(changed(sensor) for sensor in calibration.sensors),
        angles=tuple(changed(series) for series in calibration.angles),
    )


def last_ten_minutes(calibration):
    """The calibration's motion over and over, for ten minutes."""
    times = int(np.ceil(600 * 30 / len(calibration.time_s)))
    long = with_frames(calibration, lambda a: np.tile(a, (times,) + (1,) * (a.ndim - 1)))
    time_s = np.arange(len(long.time_s)) / 30
    angles = tuple(replace(series, time_s=time_s) for series in long.angles)
    return replace(long, time_s=time_s, angles=angles, posture=None)


def test_the_page_is_well_formed_with_unique_ids(page):
    assert page.source.startswith(b"<!DOCTYPE html>")
    assert page.problems == []
    ids = Counter(node.attributes["id"] for node in page.nodes if "id" in node.attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    used = set(re.findall(r"url\(#([^)]+)\)", page.source.decode()))
    assert used
    assert used <= set(ids)
    links = {a.attributes["href"] for a in page.all("a")}
    assert len(links) > 5
    assert links <= {f"#{name}" for name in ids}


def test_the_head_says_verdict_duration_and_coverage(calibration, page):
    head = page.one("header").text
    assert "made-up" in page.one("h1").text
    assert "passed" in head
    assert f"{calibration.video.duration_s:.1f} s" in head
    assert "100 % of frames" in head
    assert "3 sensors on sacrum, L1, T12" in head
    assert "not a diagnosis" in head


def test_every_check_sensor_and_remark_is_on_the_page(calibration, page):
    text = page.one("body").text
    for gate in calibration.gates:
        assert gate.why[1:] in text
    for warning in calibration.warnings:
        assert warning in text
    for series in calibration.angles:
        assert f"{series.cranial} over {series.caudal}" in text
    rows = page.one("section", id="sensors").text
    for sensor in calibration.sensors:
        assert f"{sensor.segment}{sensor.sensor}tag {sensor.tag}" in rows
        for bias in np.rad2deg(sensor.gyro_bias):
            assert f"{abs(bias):.3f}" in rows
    limits = page.one("section", id="limits").text
    assert "skin" in limits
    assert "not Cobb angles" in limits
    assert "not a diagnosis" in limits


def test_ranges_are_those_of_the_other_files(calibration, page):
    rows = [node.text for node in page.all("td") if node.attributes.get("data-label") == "Lowest"]
    lowest = [float(text.rstrip("°").replace("−", "-")) for text in rows]
    expected = [
        pair[name]["min"]
        for pair in summarise(calibration)["angles"]
        for name in ("flexion_deg", "lateral_deg", "axial_deg")
    ]
    assert lowest == pytest.approx(expected, abs=0.051)


def test_every_figure_has_words_for_those_who_do_not_see_it(calibration, page):
    assert page.one("html").attributes["lang"] == "en"
    plots = page.all("div", role="img")
    assert len(plots) == len(page.all("svg", **{"class": "plot"}))
    own = [plot for plot in plots if "along the back" not in plot.attributes["aria-label"]
           and "curve" not in plot.attributes["aria-label"]]  # fmt: skip
    assert len(own) == len(calibration.angles) + 2 * len(calibration.sensors)
    assert all(len(plot.attributes["aria-label"]) > 20 for plot in plots)
    assert all("tags found: 0 (sacrum), 2 (T12)" in i.attributes["alt"] for i in page.all("img"))
    captions = page.all("figcaption")
    assert len(captions) == len(page.all("figure"))
    assert all(caption.text for caption in captions)


def test_drawings_are_well_formed_and_told_or_left_out_for_screen_readers(page):
    drawings = re.findall(r"<svg.*?</svg>", page.source.decode(), re.DOTALL)
    assert drawings
    for drawing in drawings:
        ET.fromstring(drawing)
    assert all(svg.attributes.get("aria-hidden") == "true" for svg in page.all("svg"))


def test_the_page_fits_a_phone_and_paper(page):
    viewport = page.one("meta", name="viewport").attributes["content"]
    assert viewport == "width=device-width, initial-scale=1"
    style = page.one("style").text
    assert "@media print" in style
    assert "max-width" in style


def test_a_failed_check_is_the_first_thing_said(calibration, report):
    hint = "Look for the swapped sensors."
    failed = report(with_gate(calibration, "offset_uncertain", passed=False, hint=hint))
    verdict = failed.one("div", **{"class": "verdict fail"}).text
    assert "do not use" in verdict
    assert "Clocks agree" in verdict
    assert hint in verdict
    body = failed.one("body").text
    assert body.index("do not use") < body.index("Duration")
    assert "Not for use" in failed.one("section", id="angles").text


def test_a_missed_advisory_check_leaves_the_session_usable(calibration, report):
    noted = report(with_gate(calibration, "tag_small", passed=False))
    verdict = noted.one("div", **{"class": "verdict warn"}).text
    assert "Usable" in verdict
    assert "6 of 7" in verdict
    assert "Attention" in noted.one("section", id="quality").text


def test_a_clean_session_simply_passes(calibration, report):
    clean = report(replace(calibration, warnings=()))
    assert "All 7" in clean.one("div", **{"class": "verdict pass"}).text
    assert clean.all("section", id="warnings") == []


NAMES = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a & b &lt; c",
    "$x_{$ \\frac{",
    "датчик 一 \u202eright to left",
    "_hidden",
]


@pytest.mark.parametrize("given", NAMES)
def test_names_are_shown_as_given_and_never_run(calibration, page, report, given):
    first = replace(calibration.sensors[0], sensor=given, segment=given)
    pair = replace(calibration.angles[0], caudal=given, cranial=given)
    named = report(
        replace(
            calibration,
            sensors=(first, *calibration.sensors[1:]),
            angles=(pair, *calibration.angles[1:]),
            warnings=(given,),
            gates=tuple(replace(g, name=given, why=given, hint=given) for g in calibration.gates),
            sensors_file=f"{given}.csv",
            video=replace(calibration.video, file=f"{given}.mp4"),
        )
    )
    assert named.problems == []
    assert Counter(n.tag for n in named.nodes) == Counter(n.tag for n in page.nodes)
    shown = [node.text for node in named.all("bdi")]
    assert shown.count(given) > 3
    assert given in named.one("section", id="warnings").text


def test_names_that_no_page_can_hold_are_replaced_not_fatal(calibration, report):
    odd = report(replace(calibration, sensors_file="a\x00b\udcff.csv"))
    assert odd.one("h1").text == "a\ufffdb\ufffd"


def test_the_page_asks_for_nothing_from_anywhere(page):
    text = page.source.decode()
    assert re.findall(r"https?:|@import|url\((?!#)", text) == []
    for node in page.nodes:
        assert not [name for name in node.attributes if name.startswith("on")]
        for name in FETCHING & set(node.attributes):
            assert node.attributes[name].startswith(("#", "data:image/jpeg;base64,"))
    assert {"script", "link", "iframe", "object", "form"} & {
        node.tag for node in page.nodes
    } == set()
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy.attributes["content"]


def test_equal_calibrations_give_equal_bytes_whatever_matplotlib_is_set_to(
    calibration, page, report
):
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": "other"}):
        before = dict(mpl.rcParams)
        again = report(calibration)
        assert dict(mpl.rcParams) == before
    assert again.source == page.source


def test_ten_minutes_of_a_whole_spine_stay_small(calibration, report):
    long = last_ten_minutes(calibration)
    sensors, angles = long.sensors[:2] * 9, long.angles[:1] * 17
    whole = report(replace(long, sensors=sensors, angles=angles))
    assert len(whole.all("svg", **{"class": "plot"})) == 17 + 2 * 18
    assert len(whole.source) < LARGEST
    assert "liveliest 20 s" in whole.one("section", id="agreement").text


def test_a_single_sensor_has_a_report_without_angles(session, cpu, report):
    made = session(sensors=1, duration_s=4)
    single = report(calibrate_sightings(made.recording, made.sightings, made.rig, cpu))
    assert single.problems == []
    assert "single sensor" in single.one("section", id="angles").text
    assert len(single.all("svg", **{"class": "plot"})) == 2
    assert single.all("section", id="detections") == []


def test_a_fit_without_numbers_still_has_a_report(calibration, report):
    def lost(values):
        return np.full_like(values, np.nan) if values.dtype == np.float64 else values

    nothing = replace(with_frames(calibration, lost), time_s=calibration.time_s)
    sensors = tuple(
        replace(s, R_sensor_tag=s.R_sensor_tag * np.nan, gyro_bias=s.gyro_bias * np.nan)
        for s in nothing.sensors
    )
    angles = tuple(replace(series, time_s=calibration.time_s) for series in nothing.angles)
    gates = tuple(replace(g, value=np.nan, passed=False) for g in calibration.gates)
    empty = report(replace(nothing, sensors=sensors, angles=angles, gates=gates))
    assert empty.problems == []
    assert "do not use" in empty.one("header").text
    assert re.search(r"\bnan\b", empty.one("body").text) is None


def test_thumbnails_carry_the_frame_and_the_tags_corners(page):
    data = page.one("img").attributes["src"].partition(",")[2]
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image.shape == (90, 160)
    assert np.abs(image.mean(0) - np.arange(160)).max() < 10
    drawn = [
        np.array([float(n) for n in re.split("[ ,]", polygon.attributes["points"])]).reshape(4, 2)
        for polygon in page.all("polygon")
    ]
    np.testing.assert_allclose(drawn, [CORNERS, CORNERS + 5])


def test_large_frames_are_made_small_with_their_corners(calibration, report):
    large = Thumbnail(0.0, np.zeros((1080, 1920), np.uint8), {0: CORNERS * 12})
    shown = report(replace(calibration, thumbnails=(large,)))
    assert shown.one("img").attributes["width"] == "480"
    points = shown.one("polygon").attributes["points"]
    assert points.split(" ")[0] == "120.0,90.0"


def test_frames_without_a_tag_or_an_angle_do_not_stop_the_report(calibration, report):
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
    blind = report(replace(calibration, sensors=sensors, angles=angles, thumbnails=()))
    assert blind.problems == []
    assert "0 of 3" in blind.one("header").text


def test_hidden_tags_are_told_beside_the_angles(calibration, report):
    first = calibration.angles[0]
    visible = np.arange(len(first.time_s)) >= len(first.time_s) // 4
    hidden = report(replace(calibration, angles=(replace(first, visible=visible),)))
    assert "Grey: a tag hidden (25 %)" in hidden.one("section", id="angles").text


def test_coverage_shows_when_the_tag_was_seen(calibration):
    sensor = calibration.sensors[0]
    half = np.arange(len(calibration.time_s)) < len(calibration.time_s) // 2
    strip = coverage_strip(calibration.time_s, replace(sensor, seen=half, inside=half))
    seen, absent = re.findall(r'd="([^"]+)"', strip)
    assert seen == "M0 20H0.0V0.0H500.0V20.0H1000.0V20Z"
    assert absent == "M0 20H0.0V20.0H500.0V0.0H1000.0V20Z"


def test_a_single_frames_peak_survives_in_a_long_session(calibration):
    series = last_ten_minutes(calibration).angles[0]
    cardan = np.deg2rad(5) * np.sin(series.time_s)[:, None] * np.ones(3)
    cardan[7777] = np.deg2rad(60)
    peaked = replace(series, cardan_rad=cardan, sd_rad=cardan * 0 + 1e-4)
    outlines = re.findall(rf'd="([^"]+)"[^>]*stroke: {BLUE.lower()}', angle_plot(peaked, "p"))
    (heights,) = [np.array(re.findall(r"[ML] \S+ (\S+)", d), float) for d in outlines]
    assert len(heights) < 1000
    middle = np.median(heights)
    assert middle - heights.min() > 8 * (heights.max() - middle)
