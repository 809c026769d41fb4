"""What the exports of Xsens' and Movella's programs say about themselves, and what they do not.

MT Manager writes rad/s, m/s², ``SampleTimeFine`` in 0.1 ms and a 16-bit ``PacketCounter`` (MTw and
MTi user manuals, "Timestamp and packet counter output"); Movella DOT writes °/s, m/s²,
``SampleTimeFine`` in µs and a 32-bit counter (DOT user manual, 4.2.5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from cis_tasks.errors import PermanentError
from cis_tasks.spine.readers.clocks import COUNTER_WRAPS
from cis_tasks.spine.readers.columns import Layout
from cis_tasks.spine.readers.tables import Table

_RATE_NOTES = ("update rate", "outputrate", "output rate", "sample rate", "sampling rate")
_ID_NOTES = ("devicetag", "deviceid", "device id", "sensor id", "sensor_id", "sensor")
_DOT_NOTES = frozenset({"devicetag", "syncstatus", "measurement mode"})


@dataclass(frozen=True)
class Export:
    """What is known of one file beside its columns.

    Attributes:
        gyr_unit: of the angular rates, or None.
        acc_unit: of the specific force, or None.
        tick_s: seconds per ``SampleTimeFine``, or None.
        counter_wraps: where ``PacketCounter`` starts again, or None.
        rate_hz: as the header gives it, or None.
        ids: names of the sensor, the likeliest first: header, end of the file's name, all of it.
    """

    gyr_unit: str | None
    acc_unit: str | None
    tick_s: float | None
    counter_wraps: int | None
    rate_hz: float | None
    ids: tuple[str, ...]


def describe(table: Table, layout: Layout) -> Export:
    """What is known of a file by its program.

    Raises:
        PermanentError: ``clocks_not_synced`` where Movella DOTs say so.
    """
    rate, ids = _rate(table.notes), _ids(table.file, table.notes)
    if layout.ticks is None and layout.counter is None:
        return Export(None, None, None, None, rate, ids)
    if _DOT_NOTES & table.notes.keys():
        _require_synced(table)
        return Export("deg/s", "m/s²", 1e-6, None, rate, ids)
    if "//" in table.notes:
        return Export("rad/s", "m/s²", 1e-4, COUNTER_WRAPS, rate, ids)
    return Export(None, "m/s²", None, COUNTER_WRAPS, rate, ids)


def _rate(notes: Mapping[str, str]) -> float | None:
    for key in _RATE_NOTES:
        if found := re.match(r"\s*(\d+(?:\.\d+)?)", notes.get(key, "")):
            return float(found[1])
    return None


def _ids(file: str, notes: Mapping[str, str]) -> tuple[str, ...]:
    stem = PurePath(file).stem
    told = [notes[key].strip() for key in _ID_NOTES if notes.get(key, "").strip()]
    ends = [stem.rpartition("_")[2], stem.partition("_")[0]]
    return tuple(dict.fromkeys([*told, ends[0] if not told else stem, stem, *ends]))


def _require_synced(table: Table) -> None:
    if table.notes.get("syncstatus", "").lower().startswith("un"):
        raise PermanentError(
            "clocks_not_synced",
            f"{table.file} says that its sensor was not synchronised with the others: their "
            "clocks have nothing in common.",
            "Synchronise the sensors in the Movella DOT app before recording.",
        )
