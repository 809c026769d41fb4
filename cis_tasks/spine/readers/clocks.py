"""Sensor clocks: counters and ticks that wrap, restart and skip, made into seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COUNTER_WRAPS = 2**16  # Xsens' PacketCounter; Movella DOT's runs to 2³² and so never wraps
TICKS_WRAP = 2**32
LONGEST_HOLE_S = 60.0  # over a wrap; a longer one is a clock that was restarted
TICKS_S = (1e-4, 1e-6, 1e-3)  # what SampleTimeFine counts: MTw and MTi, DOT, others
PLAUSIBLE_HZ = (15.0, 2500.0)


@dataclass(frozen=True)
class Clock:
    """What the column with the time holds.

    Attributes:
        column: its name.
        kind: ``time`` in a unit, ``ticks`` that wrap, or a ``counter`` of readings.
        unit: name of the time's unit where it is declared.
        step_s: seconds per tick or reading, where known.
        wraps: value at which it starts again from zero.
    """

    column: str
    kind: Literal["time", "ticks", "counter"]
    unit: str | None = None
    step_s: float | None = None
    wraps: int | None = None


def unwrap(values: Floats, wraps: int, longest_hole: float) -> Floats:
    """Undo the wraps of a clock whose readings may skip and come late.

    A fall by about the whole range is a wrap, whatever was lost on the way; one that would leave
    a hole of more than ``longest_hole`` is a restart and stays a fall.

    Args:
        values: (N,) as read; NaN stays.
        wraps: the range.
        longest_hole: in the clock's own steps.
    """
    known = np.isfinite(values)
    steps = np.diff(values[known])
    turns = -np.rint(steps / wraps)
    hole = steps + turns * wraps
    turns[(turns > 0) & (hole > longest_hole)] = 0
    out = values.copy()
    out[known] += wraps * np.concatenate([[0.0], np.cumsum(turns)])[: known.sum()]
    return out


def align_wraps(first: float, other: float, wraps: int) -> float:
    """What to add to a clock that starts at ``other`` so that it is on the turn of ``first``."""
    return -float(np.rint((other - first) / wraps)) * wraps


def tick_of(values: Floats, rate_hz: float | None) -> float | None:
    """Seconds per tick, by the sample rate where it is known, else by what rates IMUs have."""
    steps = np.diff(values[np.isfinite(values)])
    steps = steps[steps > 0]
    if not len(steps):
        return None
    step = float(np.median(steps))
    for tick in TICKS_S:
        rate = 1 / (step * tick)
        if rate_hz and 0.8 < rate / rate_hz < 1.25:
            return tick
        if not rate_hz and PLAUSIBLE_HZ[0] <= rate <= PLAUSIBLE_HZ[1]:
            return tick
    return None
