"""Units of recordings: as written, as a factor to SI, or inferred from the readings."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

G_M_S2 = 9.80665
GYR_UNITS = {"rad/s": 1.0, "deg/s": np.pi / 180, "mdeg/s": np.pi / 180e3}
ACC_UNITS = {"m/s²": 1.0, "g": G_M_S2, "mg": G_M_S2 / 1e3}
TIME_UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}

_SPELLINGS = {
    "rad/s": r"rad(?:ians?)?\s*(?:/|_|·|\*|per)?\s*s(?:ec(?:onds?)?)?(?:\^?-1|⁻¹)?|rps",
    "deg/s": r"(?:deg(?:rees?)?|°|º)\s*(?:/|_|·|\*|per)?\s*s(?:ec(?:onds?)?)?(?:\^?-1|⁻¹)?|dps",
    "mdeg/s": r"mdps|m(?:deg|°)/s(?:ec)?",
    "m/s²": r"m\s*[/_]?\s*\(?s(?:ec)?(?:\^|\*\*)?\s*[2²]\)?|m\s*[·*]?\s*s(?:\^?-2|⁻²)|m/s/s",
    "g": r"g(?:n|'s|s)?|g-?force",
    "mg": r"m[gG]|milli-?g",
    "s": r"s(?:ec(?:onds?)?)?",
    "ms": r"ms(?:ec)?|milliseconds?|millis",
    "µs": r"(?:u|µ|μ)s(?:ec)?|microseconds?|micros",
    "ns": r"ns(?:ec)?|nanoseconds?|nanos",
}

BIN_S = 0.1  # long against the accelerometer's noise, short against a movement
STEADY = 0.1  # share by which the specific force may differ from its median, which is gravity
RELATED = 0.3  # least correlation of gravity's turning with the gyroscope's
NEAR = 3.0  # factor within which a unit is recognised; the units are 57 apart
BRISK_RAD_S = 15.0  # beyond what a spine reaches for a twentieth of the time
FASTEST_RAD_S = 80.0  # 4500 °/s, beyond every IMU that people wear


def unit_of(text: str, known: Sequence[str]) -> str | None:
    """The unit among ``known`` that ``text`` spells, or None."""
    text = text.strip()
    for unit in known:
        if re.fullmatch(_SPELLINGS[unit], text, re.IGNORECASE if unit != "mg" else 0):
            return unit
    return None


def infer_acc(force: float) -> str | None:
    """The unit in which ``force``, the median length of the specific force, is gravity."""
    for unit, scale in ACC_UNITS.items():
        if 0.75 < force * scale / G_M_S2 < 1.5:
            return unit
    return None


def infer_gyr(parts: Sequence[tuple[Floats, Floats, Floats]]) -> tuple[str | None, str]:
    """The unit of gyroscopes that came without one, and what tells it.

    Gravity turns in the sensor's axes as the gyroscope says: while the specific force is about
    gravity, its derivative is ``-ω × a``. The factor between the two gives the unit. Where that
    is not clear, rates that no one turns at are in degrees.

    Args:
        parts: for each sensor (N,) time in s, (N, 3) rates, (N, 3) specific force in one unit.
    """
    turned, measured = (np.concatenate(found) for found in zip(*map(_turning, parts), strict=True))
    power = float((turned**2).sum() * (measured**2).sum())
    if power > 0 and float((turned * measured).sum()) > RELATED * np.sqrt(power):
        scale = float((turned * measured).sum() / (turned**2).sum())
        for unit in ("rad/s", "deg/s"):
            if 1 / NEAR < scale / GYR_UNITS[unit] < NEAR:
                return unit, "gravity turns in the accelerometer as it says"
    speeds = np.concatenate([np.linalg.norm(gyr, axis=1) for _, gyr, _ in parts])
    high = float(np.quantile(speeds, 0.95))
    if high > BRISK_RAD_S:
        return "deg/s", f"it exceeds {high:.0f} for a twentieth of the time"
    return None, f"it stays below {high:.2g}, and gravity hardly turns"


def _turning(part: tuple[Floats, Floats, Floats]) -> tuple[Floats, Floats]:
    """How gravity should turn by the gyroscope, and how the accelerometer sees it turn."""
    time_s, gyr, acc = part
    known = np.isfinite(acc).all(1)
    time_s, gyr, acc = time_s[known], gyr[known], acc[known]
    if len(time_s) < 2:
        return np.zeros((0, 3)), np.zeros((0, 3))
    bins = np.floor((time_s - time_s[0]) / BIN_S).astype(np.intp)
    places, index, counts = np.unique(bins, return_inverse=True, return_counts=True)
    a = _means(index, acc, counts)
    w = _means(index, gyr, counts)
    force = np.linalg.norm(a, axis=1)
    steady = np.abs(force / np.median(force) - 1) < STEADY
    middle = (places[2:] - places[:-2] == 2) & steady[1:-1]
    measured = (a[2:] - a[:-2])[middle] / (2 * BIN_S)
    return -np.cross(w[1:-1], a[1:-1])[middle], measured


def _means(index: NDArray[np.intp], values: Floats, counts: NDArray[np.intp]) -> Floats:
    sums = np.stack([np.bincount(index, column) for column in values.T], 1)
    return np.asarray(sums / counts[:, None])
