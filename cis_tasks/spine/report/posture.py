"""The posture: the back's curves, its course, and how segments stand against gravity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cis_tasks.spine.calibration import Calibration, Floats, Posture
from cis_tasks.spine.markup import Markup, element, join, name
from cis_tasks.spine.plots import course_plot, curve_plot
from cis_tasks.spine.report.parts import figure, table
from cis_tasks.spine.report.words import degrees

CURVES = (
    ("Thoracic curve (kyphosis proxy)", "how far the upper back bends forwards over T12"),
    ("Lumbar curve (lordosis proxy)", "how far T12 bends back over the sacrum"),
)


def show_posture(calibration: Calibration) -> Markup:
    """The curves over time, the line along the back, and tilts; nothing where none is known."""
    posture = calibration.posture
    if posture is None:
        return Markup("")
    parts = [*_figures(calibration.time_s, posture), _tilts(posture)]
    if not any(parts):
        return Markup("")
    figures = element("div", *parts[:-1], class_="figures") if parts[:-1] else Markup("")
    return join(element("p", posture.notice), parts[-1], figures)


def _figures(time_s: Floats, posture: Posture) -> list[Markup]:
    shown = []
    curves = (posture.kyphosis_rad, posture.lordosis_rad)
    for i, ((title, meaning), curve) in enumerate(zip(CURVES, curves, strict=True)):
        known = np.rad2deg(curve[np.isfinite(curve)])
        if len(known):
            told = f"from {degrees(float(known.min()))} to {degrees(float(known.max()))}"
            plot = curve_plot(time_s, np.rad2deg(curve), f"curve-{i}")
            words = f"{title} over time, {told}."
            shown.append(figure(plot, words, element("strong", title), f": {meaning}; {told}."))
    if np.isfinite(posture.course_m).all((1, 2)).any():
        caption = (
            ". Dark: the middle of the session; light: at other times. Heights between segments "
            "are the rig's or average ones, so that its shape is told, not its length."
        )
        words = "The line along the back from the side and from behind, at several times."
        title = element("strong", "Line along the back")
        shown.append(figure(course_plot(posture.course_m, "course"), words, title, caption))
    return shown


def _tilts(posture: Posture) -> Markup:
    """Each segment against the vertical, the topmost first."""
    rows = []
    for segment, tilt in zip(posture.segments, np.rad2deg(posture.tilt_rad), strict=True):
        known = tilt[np.isfinite(tilt).all(-1)]
        if len(known):
            rows.append((element("strong", name(segment)), *_spans(known)))
    if not rows:
        return Markup("")
    titles = ("Segment", "Forwards: lowest", "highest", "mean", "To the right: lowest", "highest",
              "mean")  # fmt: skip
    return join(
        element("p", "Tilt of each segment from the vertical, as gravity shows it."),
        table(titles, rows[::-1], numbers=range(1, len(titles))),
    )


def _spans(known: Floats) -> Sequence[str]:
    found = [
        degrees(float(value))
        for angle in known.T
        for value in (angle.min(), angle.max(), angle.mean())
    ]
    return [element("span", text) for text in found]
