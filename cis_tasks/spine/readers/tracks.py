"""From readings to tracks: rows in order of time, in SI units, and plausible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from cis_tasks.errors import PermanentError
from cis_tasks.spine.readers.clocks import LONGEST_HOLE_S, align_wraps, tick_of, unwrap
from cis_tasks.spine.readers.readings import Readings, bad_rows
from cis_tasks.spine.readers.units import (
    ACC_UNITS,
    FASTEST_RAD_S,
    G_M_S2,
    GYR_UNITS,
    TIME_UNITS,
    infer_acc,
    infer_gyr,
)
from cis_tasks.spine.recording import Floats, Track

SLOWEST_HZ = 20.0  # below, motion between two readings is lost
FASTEST_HZ = 10_000.0
STEPWISE_HZ = 2.0  # no IMU is that slow: its times are in a smaller unit
LATE_S = 1.0  # a packet may come that late; a clock that falls further was restarted
LEAST_KEPT = 0.8  # of the readings, where a clock was restarted
NOTED_LOSS = 0.01


def in_seconds(parts: Sequence[Readings]) -> list[Readings]:
    """All clocks in seconds, those that wrap on one turn.

    Raises:
        PermanentError: ``time_unit_unknown``.
    """
    origin: dict[int, float] = {}
    timed = []
    for part in parts:
        clock, time = part.clock, part.time
        step_s = clock.step_s or _step(part)
        if clock.wraps:
            time = unwrap(time, clock.wraps, LONGEST_HOLE_S / step_s)
            start = float(time[np.isfinite(time)][0]) if np.isfinite(time).any() else 0.0
            first = origin.setdefault(clock.wraps, start)
            time = time + align_wraps(first, start, clock.wraps)
        timed.append(replace(part, time=time * step_s))
    return timed


def clean(part: Readings, max_bad_rows: float) -> tuple[Readings, list[str]]:
    """Rows that are whole, in order of time and each time once; and what was dropped.

    Raises:
        PermanentError: ``sensors_bad_rows``, ``sensors_time_order`` or ``sensors_too_short``.
    """
    part, dropped = _whole(part, max_bad_rows)
    part, restarted = _one_run(part)
    part, late = _in_order(part)
    part, repeated = _once(part, max_bad_rows)
    if len(part.time) < 2:
        raise PermanentError(
            "sensors_too_short",
            f"{part.file} has only {len(part.time)} usable readings of sensor {part.sensor}.",
            "Record at least 10 s; 20 s are better.",
        )
    return part, [*dropped, *restarted, *late, *repeated, *_losses(part)]


def in_si(parts: Sequence[Readings]) -> tuple[list[Readings], list[str]]:
    """Rates in rad/s and forces in m/s², and what was inferred.

    Raises:
        PermanentError: ``gyro_unit_unknown``.
    """
    forced = [_force_in_si(part) for part in parts]
    notes = list(dict.fromkeys(note for _, note in forced if note))
    parts = [part for part, _ in forced]
    unknown = [part for part in parts if part.gyr_unit is None]
    if unknown:
        unit, why = infer_gyr([(part.time, part.gyr, part.acc) for part in unknown])
        if unit is None:
            raise PermanentError(
                "gyro_unit_unknown",
                f"{unknown[0].file} does not say in what unit its gyroscope is, and the readings "
                f"do not tell: {why}.",
                'Put the unit into the header, as in "gyr_x [deg/s]", or give '
                '"recording": {"gyr_unit": "deg/s"} or "rad/s" in the rig.',
            )
        notes.append(
            f"{unknown[0].file} does not say in what unit its gyroscope is; it is taken as {unit}, "
            f"because {why}."
        )
        parts = [part if part.gyr_unit else replace(part, gyr_unit=unit) for part in parts]
    return [replace(p, gyr=p.gyr * GYR_UNITS[p.gyr_unit or "rad/s"]) for p in parts], notes


def track_of(part: Readings) -> Track:
    """The sensor's track, if it can be one.

    Raises:
        PermanentError: ``time_not_in_seconds``, ``sensors_too_slow``, ``gyro_in_degrees``,
            ``gyro_too_fast``, ``acc_in_g`` or ``sensor_dead``.
    """
    track = Track(part.sensor, part.time, part.gyr, part.acc)
    _require_rate(track, part)
    fastest = float(np.abs(track.gyr).max())
    if fastest > FASTEST_RAD_S:
        raise _too_fast(part, fastest)
    _require_si_force(track, part.file)
    return track


def gyro_in_degrees(file: str, sensor: str, evidence: str) -> PermanentError:
    """The error for angular rates in °/s where rad/s are expected."""
    return PermanentError(
        "gyro_in_degrees",
        f"{file}: the gyroscope of sensor {sensor} is in °/s, not in rad/s: {evidence}.",
        "Multiply gyr_x, gyr_y, gyr_z by π/180 = 0.0174533.",
    )


def _step(part: Readings) -> float:
    """Seconds per unit of the clock."""
    if part.clock.unit:
        return TIME_UNITS[part.clock.unit]
    if part.clock.kind == "ticks":
        tick = tick_of(part.time, part.rate_hz)
        if tick:
            return tick
    else:
        steps = np.diff(part.time[np.isfinite(part.time)])
        steps = steps[steps > 0]
        step = float(np.median(steps)) if len(steps) else 1.0
        for scale in TIME_UNITS.values():
            if SLOWEST_HZ <= 1 / (step * scale) <= FASTEST_HZ:
                return scale
    raise PermanentError(
        "time_unit_unknown",
        f"{part.file}: the unit of {part.clock.column} is not known, and no usual one makes a "
        f"sensible rate for sensor {part.sensor}.",
        'Give "recording": {"time_unit": "s"}, "ms", "µs" or "ns" in the rig.',
    )


def _whole(part: Readings, most: float) -> tuple[Readings, list[str]]:
    good = np.isfinite(part.time) & np.isfinite(part.gyr).all(1)
    if not (bad := int((~good).sum())):
        return part, []
    if bad > most * len(good):
        raise bad_rows(part.file, f"of sensor {part.sensor} without a number", bad, len(good))
    note = f"{part.file}: {bad} rows of sensor {part.sensor} lack a number and were dropped."
    return part.at(good), [note]


def _one_run(part: Readings) -> tuple[Readings, list[str]]:
    """The longest run of a clock that was restarted."""
    falls = np.flatnonzero(np.diff(part.time) < -LATE_S)
    if not len(falls):
        return part, []
    edges = [0, *(falls + 1).tolist(), len(part.time)]
    start, end = max(pairwise(edges), key=lambda run: run[1] - run[0])
    k = int(falls[0])
    told = (
        f"{part.file}: the time of sensor {part.sensor} goes back {_times(len(falls))}, first from "
        f"{part.time[k]:.6f} to {part.time[k + 1]:.6f} s at its reading {k + 2}"
    )
    if end - start < LEAST_KEPT * len(part.time):
        raise PermanentError(
            "sensors_time_order",
            f"{told}: its clock was restarted, or recordings were put one after the other.",
            "Upload the parts as sessions of their own.",
        )
    kept = part.at(np.arange(start, end))
    span = f"{kept.time[0]:.3f} to {kept.time[-1]:.3f} s"
    return kept, [f"{told}; its clock was restarted, and only the part from {span} is used."]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _in_order(part: Readings) -> tuple[Readings, list[str]]:
    late = int((np.diff(part.time) < 0).sum())
    if not late:
        return part, []
    note = f"{part.file}: readings of sensor {part.sensor} were out of order and were sorted."
    return part.at(np.argsort(part.time, kind="stable")), [note]


def _once(part: Readings, most: float) -> tuple[Readings, list[str]]:
    new = np.diff(part.time, prepend=-np.inf) > 0
    if not (repeated := int((~new).sum())):
        return part, []
    if repeated > most * len(new) and not _same(part, new):
        raise bad_rows(part.file, f"of sensor {part.sensor} that repeat a time", repeated, len(new))
    note = f"{part.file}: {repeated} rows of sensor {part.sensor} repeat a time and were dropped."
    return part.at(new), [note]


def _same(part: Readings, new: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> bool:
    """Whether rows that repeat a time repeat the reading as well."""
    first = np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))
    return bool(np.array_equal(part.gyr, part.gyr[first]))


def _losses(part: Readings) -> list[str]:
    steps = np.diff(part.time)
    step = float(np.median(steps))
    lost = int(np.maximum(np.rint(steps / step) - 1, 0).sum())
    if lost <= NOTED_LOSS * (len(steps) + lost):
        return []
    told = f"{part.file}: sensor {part.sensor} lost {lost} of {len(steps) + lost + 1} readings"
    return [f"{told}; the longest hole is {steps.max():.2f} s."]


def _force_in_si(part: Readings) -> tuple[Readings, str]:
    if part.acc_unit:
        return replace(part, acc=part.acc * ACC_UNITS[part.acc_unit]), ""
    known = np.isfinite(part.acc).all(1)
    if not known.any():
        return part, ""
    unit = infer_acc(_median_force(part.acc))
    if unit is None:
        return replace(part, acc=np.full_like(part.acc, np.nan)), (
            f"{part.file}: the accelerometer is in no usual unit and is left out; at rest it "
            f"reads {_median_force(part.acc):.4g}."
        )
    note = "" if unit == "m/s²" else f"{part.file}: the accelerometer is taken to be in {unit}."
    return replace(part, acc=part.acc * ACC_UNITS[unit], acc_unit=unit), note


def _median_force(acc: Floats) -> float:
    known = np.isfinite(acc).all(1)
    return float(np.median(np.linalg.norm(acc[known], axis=1)))


def _require_rate(track: Track, part: Readings) -> None:
    if track.rate_hz >= SLOWEST_HZ:
        return
    step = 1 / track.rate_hz
    for scale, unit in ((1e3, "ms"), (1e6, "µs"), (1e9, "ns")):
        if track.rate_hz < STEPWISE_HZ and SLOWEST_HZ <= track.rate_hz * scale <= FASTEST_HZ:
            raise PermanentError(
                "time_not_in_seconds",
                f"{part.file}: the times of sensor {track.sensor} are {step:.6g} apart, which are "
                f"{unit}, not seconds.",
                f"Divide {part.clock.column} by {scale:.0f}.",
            )
    raise PermanentError(
        "sensors_too_slow",
        f"{part.file}: sensor {track.sensor} gives a reading every {step:.3g} s.",
        f"Record at {SLOWEST_HZ:g} Hz at least; 100 Hz are better.",
    )


def _too_fast(part: Readings, fastest: float) -> PermanentError:
    if part.gyr_unit == "rad/s":
        return gyro_in_degrees(part.file, part.sensor, f"it reaches {fastest:.0f}")
    return PermanentError(
        "gyro_too_fast",
        f"{part.file}: the gyroscope of sensor {part.sensor} reaches {np.rad2deg(fastest):.0f} "
        f"°/s when taken as {part.gyr_unit}: no IMU measures that.",
        "Check the unit in the header, or in the rig's recording.gyr_unit.",
    )


def _require_si_force(track: Track, file: str) -> None:
    if not np.isfinite(track.acc).all(1).any():
        return
    force = _median_force(track.acc)
    for scale, unit in ((1.0, "g"), (1000.0, "mg")):
        if 0.75 < force / scale < 1.5:
            raise PermanentError(
                "acc_in_g",
                f"{file}: the accelerometer of sensor {track.sensor} reads {force:.4g} at rest, "
                f"which is gravity in {unit}, not in m/s².",
                f"Multiply acc_x, acc_y, acc_z by {G_M_S2 / scale:.6g}.",
            )
