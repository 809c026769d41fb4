"""The report's figures, as SVG to put into a page. Names are left to the page's captions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import pairwise
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cis_tasks.spine.calibration import AngleSeries, Flags, Floats, SensorCalibration
from cis_tasks.spine.markup import Markup

NORMAL_95 = 1.96  # standard deviations to either side that hold 95 % of a normal distribution
POINTS = 600  # drawn per line: about as many as a figure has pixels
EXCERPT_S = 20.0  # of the speeds, so that single movements can be told apart
COURSES = 15  # lines along the back that are drawn
LEAST_SPAN_DEG = 4.0  # of an angle's axis: less would blow up noise

# Okabe and Ito's colours, which stay apart for colour-blind readers; darkness differs as well.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#00795A", "#C44E00", "#5B6770"
ANGLES = (
    ("Flexion", "+ forwards", BLUE),
    ("Lateral bending", "+ to the right", RED),
    ("Axial rotation", "+ to the left", GREEN),
)

_SETTINGS = {
    "svg.hashsalt": "cis-tasks",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "text.parse_math": False,
    "axes.edgecolor": "#9AA5AE",
    "axes.labelcolor": "#33404A",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "grid.color": "#E4E9ED",
    "grid.linewidth": 0.8,
    "xtick.color": "#9AA5AE",
    "ytick.color": "#9AA5AE",
    "xtick.labelcolor": "#33404A",
    "ytick.labelcolor": "#33404A",
    "lines.solid_joinstyle": "round",
    "path.simplify": True,
}


def angle_plot(series: AngleSeries, prefix: str) -> Markup:
    """Flexion, lateral bending and axial rotation over time with their 95 % bands.

    Grey where a tag was hidden. Where the pair is bent so far that flexion and axial rotation
    are not determined, those two are left out.

    Args:
        series: one pair's angles.
        prefix: of the ids in the figure, different for each on a page.
    """

    def draw(figure: Figure) -> None:
        panels = figure.subplots(3, 1, sharex=True)
        figure.subplots_adjust(left=0.125, right=0.985, top=0.945, bottom=0.105, hspace=0.34)
        for i, (axes, (title, sense, colour)) in enumerate(zip(panels, ANGLES, strict=True)):
            angle = series.cardan_deg[:, i]
            if i != 1:
                angle = np.where(series.gimbal, np.nan, angle)
            sd = np.rad2deg(series.sd_rad[:, i])
            _shade(axes, series.time_s, ~series.visible)
            _band(axes, series.time_s, angle, NORMAL_95 * sd, colour)
            _line(axes, series.time_s, angle, color=colour, linewidth=1.3)
            axes.set_title(f"{title} (°), {sense}", color=colour, pad=4)
            _fit(axes, angle, NORMAL_95 * sd)
            axes.axhline(0, color="#9AA5AE", linewidth=0.9, zorder=1.5)
        _time_axis(panels[-1], series.time_s)

    return _render(draw, (5.2, 5.0), prefix)


def curve_plot(time_s: Floats, angle_deg: Floats, prefix: str) -> Markup:
    """One angle of the whole back over time."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.125, right=0.985, top=0.88, bottom=0.2)
        _line(axes, time_s, angle_deg, color=BLUE, linewidth=1.3)
        axes.set_title("Bend (°)", pad=5)
        _fit(axes, angle_deg, np.zeros_like(angle_deg))
        _time_axis(axes, time_s)

    return _render(draw, (5.2, 2.2), prefix)


def course_plot(course_m: Floats, prefix: str) -> Markup:
    """The line along the back, from the right side and from behind.

    Args:
        course_m: (K, P, 3) in the lowest segment's axes: front, up, right.
        prefix: of the ids in the figure, different for each on a page.
    """
    known = course_m[np.isfinite(course_m).all((1, 2))]
    shown = known[np.linspace(0, len(known) - 1, min(len(known), COURSES)).astype(np.intp)]
    middle = np.median(known, axis=0)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        figure.subplots_adjust(left=0.125, right=0.985, top=0.9, bottom=0.14, wspace=0.12)
        for axes, across, title in zip(
            panels, (0, 2), ("From the right side", "From behind"), strict=True
        ):
            for line in shown:
                axes.plot(100 * line[:, across], 100 * line[:, 1], color="#9CC3DC", linewidth=0.9)
            axes.plot(100 * middle[:, across], 100 * middle[:, 1], color="#10344C", linewidth=2.2)
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_title(title, pad=4)
            axes.set_xlabel("cm, front →" if across == 0 else "cm, right →", labelpad=2)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4))

    return _render(draw, (5.2, 3.6), prefix)


def alignment_plot(time_s: Floats, sensor: SensorCalibration, span: slice, prefix: str) -> Markup:
    """How fast the tag turns in the video and how fast the gyroscope says it does."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.125, right=0.985, top=0.86, bottom=0.2)
        time, camera = time_s[span], np.rad2deg(sensor.camera_speed[span])
        gyro = np.rad2deg(sensor.gyro_speed[span])
        _line(axes, time, camera, color=ORANGE, linewidth=4.0, alpha=0.75, label="camera")
        _line(axes, time, gyro, color="#10344C", linewidth=1.1, label="gyroscope")
        axes.set_title("Rotation speed (°/s)", pad=5)
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=2, frameon=False, borderpad=0
        )
        axes.set_ylim(0, _top(np.concatenate([camera, gyro]), 10.0))
        _time_axis(axes, time)

    return _render(draw, (5.2, 2.6), prefix)


def residual_plot(time_s: Floats, sensor: SensorCalibration, prefix: str) -> Markup:
    """The angle between the tag as seen and as carried by the gyroscope, and how it is spread."""

    def draw(figure: Figure) -> None:
        residual = np.rad2deg(sensor.residual_rad)
        known = residual[np.isfinite(residual)]
        over_time, spread = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
        figure.subplots_adjust(left=0.125, right=0.985, top=0.86, bottom=0.2, wspace=0.06)
        _shade(over_time, time_s, ~np.isfinite(residual))
        _line(over_time, time_s, residual, color=BLUE, linewidth=0.9)
        over_time.set_title("Disagreement (°)", pad=5)
        top = _top(residual, 0.2)
        over_time.set_ylim(0, top)
        spread.hist(known, bins=np.linspace(0, top, 31), orientation="horizontal", color=BLUE)
        spread.set_title("Frames", pad=5)
        spread.tick_params(labelleft=False)
        spread.locator_params(axis="x", nbins=2)
        if len(known):
            over_time.axhline(float(np.median(known)), color="#10344C", linewidth=1, dashes=(4, 3))
        _time_axis(over_time, time_s)

    return _render(draw, (5.2, 2.6), prefix)


def coverage_strip(time_s: Floats, sensor: SensorCalibration) -> Markup:
    """A bar over time: as high as the share of frames in which the tag was seen.

    The page colours both, and where the sensor was not recording.
    """
    edges = _edges(len(time_s), POINTS)
    x = _places(time_s, edges)
    seen = [float(sensor.seen[a:b].mean()) for a, b in pairwise(edges)]
    absent = [float(sensor.inside[a:b].mean()) < 0.5 for a, b in pairwise(edges)]
    bars = "".join(
        f'<path class="{kind}" d="{outline}"/>'
        for kind, outline in (
            ("seen", _skyline(x, seen)),
            ("absent", _skyline(x, [float(flag) for flag in absent])),
        )
        if outline
    )
    return Markup(
        f'<svg class="strip" viewBox="0 0 1000 20" preserveAspectRatio="none" '
        f'aria-hidden="true" focusable="false">{bars}</svg>'
    )


def range_bar(low: float, high: float, mean: float, axis: tuple[float, float]) -> Markup:
    """A bar from the lowest to the highest angle, a tick at their mean, and a line at zero.

    Args:
        low: least angle.
        high: largest angle.
        mean: their mean.
        axis: the angles at the ends of the drawing; the same for all bars that are compared.
    """
    if not np.isfinite([low, high, mean]).all():
        return Markup("")
    scale = 1000 / max(axis[1] - axis[0], 1e-9)
    start, end, middle, zero = ((value - axis[0]) * scale for value in (low, high, mean, 0.0))
    return Markup(
        f'<svg class="bar" viewBox="0 0 1000 20" preserveAspectRatio="none" aria-hidden="true" '
        f'focusable="false"><path class="zero" d="M{zero:.1f} 0V20"/>'
        f'<path class="span" d="M{start:.1f} 4H{end:.1f}V16H{start:.1f}Z"/>'
        f'<path class="mean" d="M{middle:.1f} 4V16"/></svg>'
    )


def liveliest(time_s: Floats, sensors: Sequence[SensorCalibration]) -> slice:
    """The excerpt in which camera and gyroscopes see the most motion; all of a short session."""
    if time_s[-1] - time_s[0] <= 1.5 * EXCERPT_S:
        return slice(0, len(time_s))
    motion = np.zeros(len(time_s))
    for sensor in sensors:
        motion += np.nan_to_num(sensor.gyro_speed * np.isfinite(sensor.camera_speed))
    done = np.concatenate([[0.0], np.cumsum(motion)])
    starts = np.searchsorted(time_s, np.arange(time_s[0], time_s[-1] - EXCERPT_S, EXCERPT_S / 4))
    ends = np.searchsorted(time_s, time_s[starts] + EXCERPT_S)
    best = int(np.argmax(done[ends] - done[starts]))
    return slice(int(starts[best]), int(ends[best]))


def _render(draw: Callable[[Figure], None], size_in: tuple[float, float], prefix: str) -> Markup:
    with _settings():
        figure = Figure(figsize=size_in)
        draw(figure)
        file = BytesIO()
        unsigned = dict.fromkeys(("Date", "Creator"))
        FigureCanvasSVG(figure).print_figure(file, format="svg", metadata=unsigned)
    return _inline(file.getvalue(), prefix)


@contextmanager
def _settings() -> Iterator[None]:
    """Matplotlib as it comes, whatever the machine's own configuration, and as we want it."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)  # type: ignore[arg-type]
        yield


def _inline(document: bytes, prefix: str) -> Markup:
    """An SVG file as part of a page: no namespaces, and ids that no other figure has."""
    root = ET.fromstring(document)  # noqa: S314 made by matplotlib just now
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    _simplify(root)
    text = ET.tostring(root, encoding="unicode")
    ids = {name: f"{prefix}-{n}" for n, name in enumerate(_references(text))}
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{ids[m[1]]}"' if m[1] in ids else "", text)
    return Markup(re.sub(r'(href="|url\()#([\w-]+)', lambda m: f"{m[1]}#{ids[m[2]]}", text))


def _references(text: str) -> list[str]:
    """The ids that are pointed at, in order."""
    return list(dict.fromkeys(re.findall(r'(?:href="|url\()#([\w-]+)', text)))


def _simplify(root: ET.Element) -> None:
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in node.attrib.items()}
        if "d" in attributes:
            attributes["d"] = _brief(attributes["d"])
        if "style" in attributes:  # the page's font
            attributes["style"] = re.sub(r";? ?font-family: [^;]*", "", attributes["style"])
        node.attrib.clear()
        node.attrib.update(attributes)
        node.text, node.tail = (node.text or "").strip(), ""
    root.attrib = {
        "class": "plot",
        "viewBox": root.attrib["viewBox"],
        "aria-hidden": "true",
        "focusable": "false",
    }


def _brief(path: str) -> str:
    """A path to a tenth of a point."""
    shorter = re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", path)
    return " ".join(shorter.split())


def _line(axes: Axes, time_s: Floats, values: Floats, **style: object) -> None:
    at = _telling(values)
    axes.plot(time_s[at], values[at], **style)  # type: ignore[arg-type]


def _telling(values: Floats) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Indices of the least and largest value in each of ``POINTS / 2`` stretches."""
    if len(values) <= POINTS:
        return np.arange(len(values))
    kept: list[int] = []
    for a, b in pairwise(_edges(len(values), POINTS // 2)):
        part = values[a:b]
        ends: set[int] = {int(a)}
        if np.isfinite(part).any():
            ends = {int(a + np.nanargmin(part)), int(a + np.nanargmax(part))}
        kept.extend(sorted(ends))
    return np.array(kept)


def _band(axes: Axes, time_s: Floats, middle: Floats, half: Floats, colour: str) -> None:
    starts = _edges(len(time_s), POINTS // 2)[:-1]
    low = np.fmin.reduceat(middle - half, starts)
    high = np.fmax.reduceat(middle + half, starts)
    axes.fill_between(time_s[starts], low, high, color=colour, alpha=0.25, linewidth=0)


def _shade(axes: Axes, time_s: Floats, where: Flags) -> None:
    edges = _edges(len(time_s), POINTS // 2)
    x = np.append(time_s, time_s[-1])
    runs: list[list[float]] = []
    for a, b in pairwise(edges):
        if where[a:b].mean() < 0.5:
            continue
        if runs and runs[-1][1] == x[a]:
            runs[-1][1] = float(x[b])
        else:
            runs.append([float(x[a]), float(x[b])])
    if runs:
        bars = [(start, end - start) for start, end in runs]
        whole_height = axes.get_xaxis_transform()
        axes.broken_barh(bars, (0, 1), transform=whole_height, facecolor="#DDE3E8", linewidth=0)


def _fit(axes: Axes, middle: Floats, half: Floats) -> None:
    """Show every angle, and its band but for rare peaks."""
    known = np.isfinite(middle + half)
    low, high = -LEAST_SPAN_DEG / 2, LEAST_SPAN_DEG / 2
    if known.any():
        middle, half = middle[known], half[known]
        low = min(float(middle.min()), float(np.quantile(middle - half, 0.01)))
        high = max(float(middle.max()), float(np.quantile(middle + half, 0.99)))
    centre, reach = (low + high) / 2, max((high - low) * 0.54, LEAST_SPAN_DEG / 2)
    axes.set_ylim(centre - reach, centre + reach)
    axes.locator_params(axis="y", nbins=5)


def _top(values: Floats, least: float) -> float:
    known = values[np.isfinite(values)]
    return max(float(known.max()) * 1.08 if len(known) else 0.0, least)


def _time_axis(axes: Axes, time_s: Floats) -> None:
    axes.set_xlim(float(time_s[0]), float(max(time_s[-1], time_s[0] + 1e-3)))
    axes.set_xlabel("video time (s)", labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def _edges(n: int, most: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Bounds of at most ``most`` stretches of equal length."""
    return np.linspace(0, n, min(n, most) + 1).astype(np.intp)


def _places(time_s: Floats, edges: np.ndarray[tuple[int], np.dtype[np.intp]]) -> list[float]:
    """The stretches' bounds in time, on a scale of 0 to 1000."""
    last = time_s[-1] + (time_s[-1] - time_s[0]) / max(len(time_s) - 1, 1)
    bounds = np.append(time_s, last)[edges]
    length = max(float(bounds[-1] - bounds[0]), 1e-9)
    return [float(place) for place in (bounds - bounds[0]) / length * 1000]


def _skyline(x: list[float], heights: list[float]) -> str:
    """An SVG path: a bar of each height between neighbouring places, equal ones joined."""
    steps: list[str] = []
    for i, height in enumerate(heights):
        if i and height == heights[i - 1]:
            continue
        steps.append(f"H{x[i]:.1f}V{20 * (1 - height):.1f}")
    return f"M0 20{''.join(steps)}H{x[-1]:.1f}V20Z" if any(heights) else ""
