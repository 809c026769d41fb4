"""The spinal angles: ranges and curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from cis_tasks.spine.calibration import AngleSeries, Calibration
from cis_tasks.spine.markup import Markup, element, join, name
from cis_tasks.spine.plots import ANGLES, NORMAL_95, angle_plot, range_bar
from cis_tasks.spine.report.parts import column, figure, sign, wide
from cis_tasks.spine.report.words import count, degrees, median, number, share


def show_angles(calibration: Calibration) -> Markup:
    """The angles of each neighbouring pair, as ranges and over time."""
    if not calibration.angles:
        only = "There is a single sensor: angles are between neighbours, and it has none."
        return element("p", only)
    figures = [
        figure(angle_plot(series, f"angles-{i}"), _angle_words(series), *_angle_caption(series))
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
    return element("p", sign("fail"), " ", element("strong", "Not for use. "), why)


def _beyond(angles: Iterable[AngleSeries]) -> str:
    if any((np.abs(series.cardan_deg) > 180).any() for series in angles):
        return " Flexion and axial rotation run on beyond ±180° instead of jumping."
    return ""


def _range_table(angles: Sequence[AngleSeries]) -> Markup:
    titles = ("Pair", "Angle", "Lowest", "Highest", "Range", "Mean", "±95 %", "Lowest to highest")
    numbers = titles[2:-1]
    head = [column(title, number=title in numbers) for title in titles]
    spans = [_span(series) for series in angles]
    ends = [end for span in spans for low, high, _ in span for end in (low, high) if high >= low]
    axis = (min([0.0, *ends]), max([0.0, *ends]))
    groups = []
    for series, span in zip(angles, spans, strict=True):
        pair = element("th", name(series.name), scope="rowgroup", rowspan=str(len(ANGLES)))
        rows = []
        for i, (title, *values) in enumerate(_ranges(series)):
            cells = [
                element("td", value, class_="number", data_label=label)
                for label, value in zip(numbers, values, strict=True)
            ]
            cells.append(element("td", range_bar(*span[i], axis), class_=f"span angle-{i}"))
            first = [] if i else [pair]
            rows.append(element("tr", *first, element("th", title, scope="row"), *cells))
        groups.append(element("tbody", *rows))
    return wide(element("table", element("thead", element("tr", *head)), *groups, class_="ranges"))


def _span(series: AngleSeries) -> list[tuple[float, float, float]]:
    """Lowest, highest and mean of each angle; NaN where it is never known."""
    known = series.cardan_deg[np.isfinite(series.cardan_deg).all(1) & ~series.gimbal]
    if not len(known):
        return [(math.nan, math.nan, math.nan)] * len(ANGLES)
    ends = np.stack([known.min(0), known.max(0), known.mean(0)], 1)
    return [(float(low), float(high), float(mean)) for low, high, mean in ends]


def _ranges(series: AngleSeries) -> list[tuple[str, ...]]:
    """Title, lowest, highest, range, mean and 95 % band of each angle, for people."""
    known = np.isfinite(series.cardan_deg).all(1) & ~series.gimbal
    rows = []
    for i, ((title, _, _), (low, high, mean)) in enumerate(zip(ANGLES, _span(series), strict=True)):
        half = NORMAL_95 * median(np.rad2deg(series.sd_rad[known, i]))
        values = [degrees(value) for value in (low, high, high - low, mean)]
        rows.append((title, *values, degrees(half, ".2f")))
    return rows


def _angle_words(series: AngleSeries) -> str:
    """The figure for those who do not see it."""
    ranges = "; ".join(f"{title} from {low} to {high}" for title, low, high, *_ in _ranges(series))
    return f"Angles of {series.name} over time. {ranges}."


def _angle_caption(series: AngleSeries) -> list[str]:
    half = NORMAL_95 * median(np.rad2deg(series.sd_rad))
    told: list[str] = [
        element("strong", name(series.cranial), " over ", name(series.caudal)),
        f". Band: ±95 %, typically ±{number(half, '.2f')}°.",
    ]
    hidden = 1 - float(series.visible.mean())
    if hidden:
        told.append(f" Grey: a tag hidden ({share(hidden)}), carried by the gyroscopes.")
    if series.gimbal.any():
        told.append(
            f" {count(int(series.gimbal.sum()), 'frame')} bent near 90°, where flexion and axial "
            "rotation are not determined, left out."
        )
    return told
