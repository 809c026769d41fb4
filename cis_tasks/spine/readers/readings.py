"""One sensor's readings as a file gives them: clock and units still the file's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from cis_tasks.errors import PermanentError
from cis_tasks.spine.readers.clocks import TICKS_WRAP, Clock
from cis_tasks.spine.readers.columns import (
    CANONICAL,
    Device,
    Layout,
    Signal,
    find_layout,
    mapped_layout,
)
from cis_tasks.spine.readers.files import empty
from cis_tasks.spine.readers.tables import COLUMNS_HINT, Table
from cis_tasks.spine.readers.vendors import Export, describe
from cis_tasks.spine.recording import Floats
from cis_tasks.spine.rig import RecordingForm


@dataclass(frozen=True)
class Readings:
    """One sensor in one file.

    Attributes:
        file: name of the file.
        sensor: id of the sensor.
        clock: what ``time`` holds.
        time: (N,) in the clock's own unit.
        gyr: (N, 3) in ``gyr_unit``.
        acc: (N, 3) in ``acc_unit``; NaN where not measured.
        gyr_unit: declared unit, or None.
        acc_unit: declared unit, or None.
        rate_hz: declared rate, or None.
    """

    file: str
    sensor: str
    clock: Clock
    time: Floats
    gyr: Floats
    acc: Floats
    gyr_unit: str | None
    acc_unit: str | None
    rate_hz: float | None

    def at(self, rows: np.ndarray[tuple[int], np.dtype[np.bool_ | np.intp]]) -> Readings:
        """The same at some rows."""
        return replace(self, time=self.time[rows], gyr=self.gyr[rows], acc=self.acc[rows])


def read_table(
    table: Table, form: RecordingForm, wanted: Sequence[str], max_bad_rows: float
) -> tuple[list[Readings], list[str]]:
    """All sensors of a table, and what was dropped.

    Args:
        table: the file.
        form: what the rig says of it.
        wanted: the rig's sensor ids, of which a file's name or header may mean one.
        max_bad_rows: share of the rows that may lack a sensor id.

    Raises:
        PermanentError: ``sensors_columns``, ``sensors_empty``, ``sensors_bad_rows``,
            ``clocks_not_synced`` or ``rate_unknown``.
    """
    layout = _layout(table, form)
    source = _Source(table, form, layout, describe(table, layout))
    rows = table.read(*_needed(layout))
    if rows.height == 0:
        raise empty(table.file, "has a header but no readings")
    found, notes = [], []
    for sensor, part in _by_sensor(rows, layout):
        if sensor is None:
            notes.append(_unnamed(table.file, part.height, rows.height, max_bad_rows))
            continue
        for device in layout.devices:
            name = sensor or device.sensor or _chosen(source.export.ids, wanted)
            found.append(source.readings(device, part, name))
    return found, notes


def bad_rows(file: str, what: str, bad: int, rows: int) -> PermanentError:
    """The error for an export that went wrong."""
    return PermanentError(
        "sensors_bad_rows",
        f"{file} has {bad} rows {what}, out of {rows}.",
        "A few are dropped with a warning; so many mean that the export went wrong: repeat it.",
    )


def _layout(table: Table, form: RecordingForm) -> Layout:
    if form.columns:
        layout = mapped_layout(table.names, table.units, dict(form.columns.items()))
    else:
        layout = find_layout(table.names, table.units)
    if layout.missing or not layout.devices:
        missing = ", ".join(layout.missing) or "gyr_x, gyr_y, gyr_z"
        raise PermanentError(
            "sensors_columns",
            f"{table.file} lacks the column {missing}; it has {', '.join(table.names[:20])}.",
            _columns_hint(layout, form),
        )
    return layout


def _columns_hint(layout: Layout, form: RecordingForm) -> str:
    if form.columns:
        return "Correct recording.columns in the rig: it names the columns as the header does."
    if layout.ticks or layout.counter:
        return "Export angular velocity (Gyr) and acceleration (Acc), not orientation alone."
    return COLUMNS_HINT


def _needed(layout: Layout) -> tuple[list[str], list[str]]:
    """Columns to read as numbers and as text."""
    numbers = [name for name in (layout.ticks, layout.counter) if name]
    for device in layout.devices:
        numbers += [device.time[0]] if device.time else []
        numbers += [*device.gyr.columns, *(device.acc.columns if device.acc else ())]
    return list(dict.fromkeys(numbers)), [layout.sensor] if layout.sensor else []


def _by_sensor(rows: pl.DataFrame, layout: Layout) -> Iterator[tuple[str | None, pl.DataFrame]]:
    """Sensor id (empty where no column names it, None where that is empty) and its rows."""
    if layout.sensor is None:
        yield "", rows
        return
    parts = rows.partition_by(layout.sensor, as_dict=True, maintain_order=True)
    for (sensor,), part in parts.items():
        yield sensor if sensor is None else str(sensor), part


def _unnamed(file: str, bad: int, rows: int, most: float) -> str:
    if bad > most * rows:
        raise bad_rows(file, "without a sensor_id", bad, rows)
    return f"{file}: {bad} rows without a sensor_id were dropped."


def _chosen(ids: Sequence[str], wanted: Sequence[str]) -> str:
    return next((name for name in ids if name in wanted), ids[0])


def _three(rows: pl.DataFrame, signal: Signal | None) -> Floats:
    if signal is None:
        return np.full((rows.height, 3), np.nan)
    return rows.select(signal.columns).to_numpy().astype(np.float64)


@dataclass(frozen=True)
class _Source:
    """A file and all that is known of it."""

    table: Table
    form: RecordingForm
    layout: Layout
    export: Export

    def readings(self, device: Device, rows: pl.DataFrame, name: str) -> Readings:
        """What one sensor's rows hold; a unit in the header comes first, the rig's last."""
        canonical = set(self.table.names) >= CANONICAL and not self.form.columns
        form, export = self.form, self.export
        clock = self._clock(device, rows)
        if canonical and clock.unit is None:
            clock = replace(clock, unit="s")
        gyr_unit = device.gyr.unit or export.gyr_unit or form.gyr_unit
        acc_unit = (device.acc.unit if device.acc else None) or export.acc_unit or form.acc_unit
        return Readings(
            file=self.table.file,
            sensor=name,
            clock=clock,
            time=rows[clock.column].to_numpy().astype(np.float64),
            gyr=_three(rows, device.gyr),
            acc=_three(rows, device.acc),
            gyr_unit=gyr_unit or ("rad/s" if canonical else None),
            acc_unit=acc_unit or ("m/s²" if canonical else None),
            rate_hz=export.rate_hz or form.rate_hz,
        )

    def _clock(self, device: Device, rows: pl.DataFrame) -> Clock:
        """Ticks where they are filled in, else a time, else the counter with its rate."""
        ticks, counter = self.layout.ticks, self.layout.counter
        if ticks and rows[ticks].fill_nan(None).null_count() <= rows.height / 2:
            return Clock(ticks, "ticks", step_s=self.export.tick_s, wraps=TICKS_WRAP)
        if device.time:
            column, unit = device.time
            return Clock(column, "time", unit or self.form.time_unit)
        rate = self.export.rate_hz or self.form.rate_hz
        if counter and rate:
            return Clock(counter, "counter", step_s=1 / rate, wraps=self.export.counter_wraps)
        raise PermanentError(
            "rate_unknown",
            f"{self.table.file} counts its readings, but tells neither their times nor their rate.",
            'Export SampleTimeFine too, or give "recording": {"rate_hz": …} in the rig.',
        )
