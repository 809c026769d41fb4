"""The recording: what the IMUs measured, read from a file."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cis_tasks.errors import PermanentError

TIME, SENSOR = "timestamp_s", "sensor_id"
GYR = ("gyr_x", "gyr_y", "gyr_z")
ACC = ("acc_x", "acc_y", "acc_z")
REQUIRED = (TIME, SENSOR, *GYR, *ACC)
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
ACCEPTED = (*TEXT_SUFFIXES, ".parquet")
DELIMITERS = ",;\t|"

FASTEST_RAD_S = 80.0  # 4500 °/s, beyond every IMU that people wear
G_M_S2 = 9.80665
SLOWEST_HZ = 20.0  # below, motion between two readings is lost
FASTEST_HZ = 10_000.0
STEPWISE_HZ = 2.0  # no IMU is that slow: its times are in a smaller unit
COLUMNS_HINT = (
    "One row per reading: timestamp_s in seconds, sensor_id, gyr_x,y,z in rad/s, acc_x,y,z in "
    "m/s²; further columns may follow."
)


@dataclass(frozen=True)
class Track:
    """One sensor's readings.

    Attributes:
        sensor: sensor id.
        time_s: (N,) the sensors' clock, strictly increasing.
        gyr: (N, 3) angular rate, rad/s, sensor axes.
        acc: (N, 3) specific force, m/s², sensor axes; NaN where not measured.
    """

    sensor: str
    time_s: NDArray[np.float64]
    gyr: NDArray[np.float64]
    acc: NDArray[np.float64]

    @property
    def rate_hz(self) -> float:
        """Sample rate, from the median step."""
        return float(1 / np.median(np.diff(self.time_s)))

    def between(self, start_s: float, end_s: float) -> Track:
        """The readings from ``start_s`` to ``end_s``."""
        part = (self.time_s >= start_s) & (self.time_s <= end_s)
        return Track(self.sensor, self.time_s[part], self.gyr[part], self.acc[part])


@dataclass(frozen=True)
class Recording:
    """All sensors of one session.

    Attributes:
        file: name of the file, without folders.
        tracks: the sensors, by id.
        warnings: what was dropped or doubtful, in sentences.
    """

    file: str
    tracks: dict[str, Track]
    warnings: tuple[str, ...] = ()

    def select(self, sensors: Sequence[str]) -> tuple[Track, ...]:
        """The tracks of the named sensors.

        Raises:
            PermanentError: ``sensor_absent`` where the file lacks one, naming those it has.
        """
        if absent := [sensor for sensor in sensors if sensor not in self.tracks]:
            raise PermanentError(
                "sensor_absent",
                f"The rig names sensor {', '.join(absent)}, which {self.file} does not have; it "
                f"has {', '.join(sorted(self.tracks))}.",
                "Use the same sensor ids in the rig and in the sensor_id column.",
            )
        return tuple(self.tracks[sensor] for sensor in sensors)


def read_recording(path: Path, max_bad_rows: float = 0.05) -> Recording:
    """Read a long table of readings: CSV with any usual delimiter, or Parquet.

    Columns: ``timestamp_s``, ``sensor_id``, ``gyr_x…z`` in rad/s, ``acc_x…z`` in m/s²; others
    are ignored. Sensors may differ in rate and length and may be mixed in any order.

    Args:
        path: ``.csv``, ``.tsv``, ``.txt`` or ``.parquet``.
        max_bad_rows: share of a sensor's rows that may lack a number or repeat a time; they are
            dropped, with a warning.

    Raises:
        PermanentError: the file cannot be used; says why, naming sensor and value.
    """
    table = _numbers(_read_table(path), path.name)
    warnings: list[str] = []
    tracks = {}
    for (sensor,), rows in table.group_by(SENSOR, maintain_order=True):
        if sensor is None:
            if rows.height > max_bad_rows * table.height:
                raise _bad_rows(path.name, "without a sensor_id", rows.height, table.height)
            warnings.append(f"{path.name}: {rows.height} rows without a sensor_id were dropped.")
            continue
        track, notes = _track(str(sensor), rows, path.name, max_bad_rows)
        tracks[track.sensor] = track
        warnings += notes
    return Recording(path.name, tracks, tuple(warnings))


def _read_table(path: Path) -> pl.DataFrame:
    if path.suffix.lower() not in ACCEPTED:
        raise PermanentError(
            "sensors_format",
            f"{path.name} is not in a format that is read: {path.suffix or 'no suffix'}.",
            f"Accepted are {', '.join(ACCEPTED)}. {COLUMNS_HINT}",
        )
    data = path.read_bytes()
    if not data.strip():
        raise PermanentError(
            "sensors_empty", f"{path.name} is empty.", "Export the recording and upload it again."
        )
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path, data)
    if missing := [column for column in REQUIRED if column not in table.columns]:
        raise PermanentError(
            "sensors_columns",
            f"{path.name} lacks the column {', '.join(missing)}; it has "
            f"{', '.join(table.columns[:20])}.",
            COLUMNS_HINT,
        )
    if table.height == 0:
        raise PermanentError(
            "sensors_empty",
            f"{path.name} has a header but no readings.",
            "Export the recording and upload it again.",
        )
    return table.select(REQUIRED)


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PermanentError(
            "sensors_unreadable",
            f"{path.name} is not a readable Parquet file: {str(error).splitlines()[0]}",
            "Write it again, or upload CSV.",
        ) from error


def _read_csv(path: Path, data: bytes) -> pl.DataFrame:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_text(path.name, f"byte {error.start} is not UTF-8") from error
    if "\0" in text:
        raise _not_text(path.name, "it holds zero bytes")
    lines = re.sub(r"\A(?:\s*(?://|#)[^\n]*\n|\s*\n)+", "", text)
    header, _, rest = lines.partition("\n")
    delimiter = max(DELIMITERS, key=header.count)
    try:
        table = pl.read_csv(
            io.StringIO(lines), separator=delimiter, infer_schema=False, truncate_ragged_lines=True
        )
    except pl.exceptions.PolarsError as error:
        raise PermanentError(
            "sensors_unreadable",
            f"{path.name} is not a readable CSV file: {str(error).splitlines()[0]}",
            COLUMNS_HINT,
        ) from error
    table = table.rename({column: column.strip() for column in table.columns})
    if delimiter != "," and re.search(r"\d,\d", rest.partition("\n")[0]):
        return table.with_columns(pl.exclude(SENSOR).str.replace(",", ".", literal=True))
    return table


def _not_text(name: str, why: str) -> PermanentError:
    return PermanentError(
        "sensors_not_text",
        f"{name} is not text: {why}.",
        "Export the recording as UTF-8 CSV, or as .parquet.",
    )


def _numbers(table: pl.DataFrame, name: str) -> pl.DataFrame:
    values = [column for column in REQUIRED if column != SENSOR]
    for column in values:
        kind = table.schema[column]
        if not (kind.is_numeric() or kind == pl.String):
            raise PermanentError(
                "sensors_unreadable",
                f"{name} has {kind} in its column {column}, where numbers belong.",
                COLUMNS_HINT,
            )
    spaces = [
        pl.col(column).str.strip_chars() for column in REQUIRED if table.schema[column] == pl.String
    ]
    table = table.with_columns(spaces)
    return table.with_columns(
        pl.col(values).cast(pl.Float64, strict=False),
        pl.col(SENSOR).cast(pl.String).replace("", None),
    )


def _track(
    sensor: str, rows: pl.DataFrame, name: str, max_bad_rows: float
) -> tuple[Track, list[str]]:
    time_s = rows[TIME].to_numpy().astype(np.float64)
    gyr = rows.select(GYR).to_numpy().astype(np.float64)
    acc = rows.select(ACC).to_numpy().astype(np.float64)
    good = np.isfinite(time_s) & np.isfinite(gyr).all(1)
    warnings = []
    if bad := int((~good).sum()):
        if bad > max_bad_rows * len(good):
            raise _bad_rows(name, f"of sensor {sensor} without a number", bad, len(good))
        warnings.append(f"{name}: {bad} rows of sensor {sensor} lack a number and were dropped.")
    time_s, gyr, acc = time_s[good], gyr[good], acc[good]
    _require_increasing(sensor, time_s, name)
    new = np.diff(time_s, prepend=-np.inf) > 0
    if repeated := int((~new).sum()):
        if repeated > max_bad_rows * len(new):
            raise _bad_rows(name, f"of sensor {sensor} that repeat a time", repeated, len(new))
        warnings.append(
            f"{name}: {repeated} rows of sensor {sensor} repeat a time and were dropped."
        )
    track = Track(sensor, time_s[new], gyr[new], acc[new])
    _require_plausible(track, name)
    return track, warnings


def _bad_rows(name: str, what: str, bad: int, rows: int) -> PermanentError:
    return PermanentError(
        "sensors_bad_rows",
        f"{name} has {bad} rows {what}, out of {rows}.",
        "A few are dropped with a warning; so many mean that the export went wrong: repeat it.",
    )


def _require_increasing(sensor: str, time_s: NDArray[np.float64], name: str) -> None:
    back = np.flatnonzero(np.diff(time_s) < 0)
    if len(back):
        k = int(back[0])
        raise PermanentError(
            "sensors_time_order",
            f"{name}: the time of sensor {sensor} goes back {len(back)} times, first from "
            f"{time_s[k]:.6f} to {time_s[k + 1]:.6f} s at its reading {k + 2}.",
            "Sort each sensor's rows by time; where the clock was restarted, upload the parts as "
            "sessions of their own.",
        )


def _require_plausible(track: Track, name: str) -> None:
    if len(track.time_s) < 2:
        raise PermanentError(
            "sensors_too_short",
            f"{name} has only {len(track.time_s)} usable readings of sensor {track.sensor}.",
            "Record at least 10 s; 20 s are better.",
        )
    _require_seconds(track, name)
    if (fastest := float(np.abs(track.gyr).max())) > FASTEST_RAD_S:
        raise gyro_in_degrees(name, track.sensor, f"it reaches {fastest:.0f}")
    known = np.isfinite(track.acc).all(1)
    if not known.any():
        return
    force = float(np.median(np.linalg.norm(track.acc[known], axis=1)))
    for scale, unit in ((1.0, "g"), (1000.0, "mg")):
        if 0.75 < force / scale < 1.5:
            raise PermanentError(
                "acc_in_g",
                f"{name}: the accelerometer of sensor {track.sensor} reads {force:.4g} at rest, "
                f"which is gravity in {unit}, not in m/s².",
                f"Multiply acc_x, acc_y, acc_z by {G_M_S2 / scale:.6g}.",
            )


def _require_seconds(track: Track, name: str) -> None:
    if track.rate_hz >= SLOWEST_HZ:
        return
    step = 1 / track.rate_hz
    for scale, unit in ((1e3, "ms"), (1e6, "µs"), (1e9, "ns")):
        if track.rate_hz < STEPWISE_HZ and SLOWEST_HZ <= track.rate_hz * scale <= FASTEST_HZ:
            raise PermanentError(
                "time_not_in_seconds",
                f"{name}: the times of sensor {track.sensor} are {step:.6g} apart, which are "
                f"{unit}, not seconds.",
                f"Divide timestamp_s by {scale:.0f}.",
            )
    raise PermanentError(
        "sensors_too_slow",
        f"{name}: sensor {track.sensor} gives a reading every {step:.3g} s.",
        f"Record at {SLOWEST_HZ:g} Hz at least; 100 Hz are better.",
    )


def gyro_in_degrees(name: str, sensor: str, evidence: str) -> PermanentError:
    """The error for angular rates in °/s where rad/s are expected."""
    return PermanentError(
        "gyro_in_degrees",
        f"{name}: the gyroscope of sensor {sensor} is in °/s, not in rad/s: {evidence}.",
        "Multiply gyr_x, gyr_y, gyr_z by π/180 = 0.0174533.",
    )
