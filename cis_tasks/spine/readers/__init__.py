"""Recordings in every usual layout, read by time and in SI units.

`docs/spine-formats.md` lists the layouts. The way of a file: ``files`` opens it, ``tables`` finds
its header, ``columns`` and ``vendors`` tell what its columns are, ``readings`` takes them out
sensor by sensor, ``clocks`` and ``units`` say what they mean, ``tracks`` puts them in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cis_tasks.errors import PermanentError
from cis_tasks.spine.readers.files import open_tables
from cis_tasks.spine.readers.readings import Readings, read_table
from cis_tasks.spine.readers.tracks import clean, in_seconds, in_si, track_of
from cis_tasks.spine.recording import Recording
from cis_tasks.spine.rig import RecordingForm, Rig

__all__ = ["read_recording"]


def read_recording(path: Path, max_bad_rows: float = 0.05, rig: Rig | None = None) -> Recording:
    """Read what the sensors measured.

    A long table (one row per reading, with a sensor id), a wide one (columns for each sensor), or
    one file per sensor in a zip or a folder; delimited text, Xsens MT Manager text, Movella DOT
    CSV or Parquet. Sensors may differ in rate and length. Units come from the header, else the
    program that wrote it, else the rig, else they are inferred and a warning says so.

    Args:
        path: ``.csv``, ``.tsv``, ``.txt``, ``.parquet``, ``.zip``, or a folder.
        max_bad_rows: share of a sensor's rows that may lack a number or repeat a time; they are
            dropped, with a warning.
        rig: gives the sensors' names and, in ``recording``, what the file does not tell. Faults
            of sensors that it does not name are no errors.

    Raises:
        PermanentError: the file cannot be used; says why, naming sensor and value.
    """
    form = (rig.recording if rig else None) or RecordingForm()
    wanted = [tag.sensor for _, tag in rig.ordered_tags] if rig else []
    parts: list[Readings] = []
    warnings: list[str] = []
    for table in open_tables(path, tuple(form.columns.values())):
        found, notes = read_table(table, form, wanted, max_bad_rows)
        parts, warnings = parts + found, warnings + notes
    _require_distinct(parts, path.name)
    cleaned = []
    for part in in_seconds(parts):
        try:
            whole, notes = clean(part, max_bad_rows)
        except PermanentError:
            if _matters(part, wanted):
                raise
            continue
        cleaned.append(whole)
        warnings += notes if _matters(part, wanted) else []
    measured, notes = in_si(cleaned)
    tracks = {}
    for part in measured:
        try:
            tracks[part.sensor] = track_of(part)
        except PermanentError:
            if _matters(part, wanted):
                raise
    return Recording(path.name, tracks, (*warnings, *notes))


def _matters(part: Readings, wanted: Sequence[str]) -> bool:
    return part.sensor in wanted or not wanted


def _require_distinct(parts: Sequence[Readings], name: str) -> None:
    seen: dict[str, str] = {}
    for part in parts:
        if part.sensor in seen:
            raise PermanentError(
                "sensor_twice",
                f"{name} holds sensor {part.sensor} twice: in {seen[part.sensor]} and in "
                f"{part.file}.",
                "Leave one of the two out, or give the files the sensors' names.",
            )
        seen[part.sensor] = part.file
