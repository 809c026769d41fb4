"""Numbers and words, as the report shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from cis_tasks.spine.calibration import Calibration, Floats, SensorCalibration
from cis_tasks.spine.markup import Markup, element, join, name


def number(value: float, form: str) -> str:
    """A number with a real minus sign; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    shown = format(value, form)
    return shown.lstrip("-") if float(shown) == 0 else shown.replace("-", "−")


def degrees(value: float, form: str = ".1f") -> str:
    """An angle."""
    return f"{number(value, form)}°" if math.isfinite(value) else "–"


def share(value: float) -> str:
    """A share in percent; what is not all is not shown as 100 %."""
    if not math.isfinite(value):
        return "–"
    percent = 100 * value
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f}".removesuffix(".0") + " %"


def median(values: Floats) -> float:
    """The median of what is known; NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def count(n: int, noun: str) -> str:
    """``1 tag``, ``2 tags``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def capital(text: str) -> str:
    """With a capital first letter."""
    return text[:1].upper() + text[1:]


def spread(parts: Sequence[str], separator: str) -> list[str]:
    """Parts with a separator between them."""
    spread = [separator] * (2 * len(parts) - 1)
    spread[::2] = parts
    return spread


def who(sensor: SensorCalibration) -> Markup:
    """A sensor as captions name it."""
    return join(
        element("strong", name(sensor.segment)), f" (tag {sensor.tag}, ", name(sensor.sensor), ")"
    )


def whose(sensor: SensorCalibration) -> str:
    """A sensor in plain text."""
    return f"{sensor.segment}, tag {sensor.tag}, sensor {sensor.sensor}"


def session_name(calibration: Calibration) -> str:
    """The name of the session: that of its recording."""
    return PurePath(calibration.sensors_file or calibration.video.file).stem or "session"
