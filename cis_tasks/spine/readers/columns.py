"""Which column is what: names as people and programs write them, or a map in the rig."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cis_tasks.spine.readers.units import ACC_UNITS, GYR_UNITS, TIME_UNITS, unit_of

TIME, SENSOR = "timestamp_s", "sensor_id"
GYR = ("gyr_x", "gyr_y", "gyr_z")
ACC = ("acc_x", "acc_y", "acc_z")
CANONICAL = frozenset({TIME, SENSOR, *GYR})
PLACEHOLDER = "{sensor}"

_SENSOR_NAMES = frozenset(
    {"sensorid", "sensor", "sensorname", "deviceid", "device", "imu", "imuid", "devicetag"}
)
_SIGNAL = re.compile(
    r"(?P<before>.*?)[\W_]*(?P<what>gyr(?:o(?:scope)?)?|ang(?:ular)?[\W_]*(?:vel(?:ocity)?|rate)"
    r"|acc(?:el(?:eration|erometer)?)?)(?:[\W_]*(?:sensor|raw|cal(?:ibrated)?|data))*[\W_]*"
    r"(?P<axis>[xyz])(?P<after>[\W_].*)?",
    re.IGNORECASE,
)
_NOT_SPECIFIC_FORCE = re.compile(r"(free|lin(ear)?|user|gravity)[\W_]*$", re.IGNORECASE)
_TIME = re.compile(
    r"(?P<before>.*?)[\W_]*(?:time[\W_]*stamp|time|t|epoch|elapsed(?:[\W_]*time)?|seconds)"
    r"(?:[\W_]*unix)?(?:[\W_]+(?P<unit>[a-zµμ]+))?(?P<after>[\W_].*)?",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"[\[(]\s*([^\[\]()]*(?:\([^()]*\))?[^\[\]()]*)\s*[\])]")


@dataclass(frozen=True)
class Signal:
    """Three columns of one quantity.

    Attributes:
        columns: x, y, z.
        unit: as the header gives it, or None.
    """

    columns: tuple[str, str, str]
    unit: str | None


@dataclass(frozen=True)
class Device:
    """The columns of one sensor.

    Attributes:
        sensor: its name in the header; empty where the header names none.
        time: column with its times and their unit; None where there is none.
        gyr: angular rate.
        acc: specific force, or None.
    """

    sensor: str
    time: tuple[str, str | None] | None
    gyr: Signal
    acc: Signal | None


@dataclass(frozen=True)
class Layout:
    """Where in a table the readings are.

    Attributes:
        devices: one, or one for each sensor of a wide table.
        sensor: column that names the sensor of each row, or None.
        counter: column that counts the readings, or None.
        ticks: column with wrapping ticks, or None.
        missing: canonical names of what there is no column for.
    """

    devices: tuple[Device, ...]
    sensor: str | None = None
    counter: str | None = None
    ticks: str | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Part:
    """One column as its name tells it."""

    sensor: str
    what: str
    axis: str
    unit: str | None


def is_called(name: str, patterns: Iterable[str]) -> bool:
    """Whether a column's name is one of ``patterns``, in which ``{sensor}`` stands for any."""
    return any(_sensor_in(name, pattern) is not None for pattern in patterns)


def is_known(name: str) -> bool:
    """Whether a header would have this name."""
    plain = _plain(name)
    return (
        plain in _SENSOR_NAMES | {"packetcounter", "sampletimefine"}
        or _signal(name) is not None
        or _time(name) is not None
    )


def find_layout(names: Sequence[str], units: Mapping[str, str]) -> Layout:
    """Tell the columns by their names.

    Args:
        names: of the columns.
        units: column → text below its name.
    """
    parts = {name: part for name in names if (part := _signal(name, units.get(name, "")))}
    wide: dict[str, dict[tuple[str, str], str]] = {}
    for name, part in parts.items():
        wide.setdefault(part.sensor, {}).setdefault((part.what, part.axis), name)
    ticks, counter = _called(names, "sampletimefine"), _called(names, "packetcounter")
    sensors = {s for s, of in wide.items() if ("gyr", "x") in of} or {""}
    times = {s: (n, u) for n in names if (found := _time(n, units.get(n, ""))) for s, u in [found]}
    common = times.get("")
    devices, missing = [], []
    for sensor in sensors if len(sensors) == 1 else [s for s in wide if s in sensors]:
        of = wide.get(sensor, {})
        missing += _missing(of, sensor)
        gyr, acc = _triple(of, parts, "gyr"), _triple(of, parts, "acc")
        if gyr is not None:
            devices.append(Device(sensor, times.get(sensor, common), gyr, acc))
    column = next((n for n in names if _plain(n) in _SENSOR_NAMES), None)
    if not (times or ticks or counter):
        missing.insert(0, TIME)
    return Layout(tuple(devices), column, counter, ticks, tuple(dict.fromkeys(missing)))


def mapped_layout(
    names: Sequence[str], units: Mapping[str, str], columns: Mapping[str, str]
) -> Layout:
    """Tell the columns by the rig's map, quantity → name; ``{sensor}`` makes it a wide table."""
    sensors = _placeholders(names, columns.values()) or ("",)
    missing = [
        columns[quantity]
        for quantity in columns
        if not any(columns[quantity].replace(PLACEHOLDER, s) in names for s in sensors)
    ]
    devices = []
    for sensor in sensors:
        at = {quantity: name.replace(PLACEHOLDER, sensor) for quantity, name in columns.items()}
        gyr, acc = (_mapped(at, names, units, which) for which in (GYR, ACC))
        time = at.get("time")
        if gyr is not None:
            unit = _unit_in(time or "", units.get(time or "", ""), TIME_UNITS)
            devices.append(Device(sensor, (time, unit) if time else None, gyr, acc))
    return Layout(
        tuple(devices), columns.get("sensor"), columns.get("counter"), None, tuple(missing)
    )


def _placeholders(names: Iterable[str], patterns: Iterable[str]) -> tuple[str, ...]:
    """The sensors that fit the first pattern with ``{sensor}`` in it, in the header's order."""
    for pattern in patterns:
        if PLACEHOLDER in pattern:
            found = [_sensor_in(name, pattern) for name in names]
            return tuple(dict.fromkeys(sensor for sensor in found if sensor))
    return ()


def _sensor_in(name: str, pattern: str) -> str | None:
    """What stands for the sensor in ``name``, empty where ``pattern`` has no place for it."""
    before, place, after = pattern.partition(PLACEHOLDER)
    if not place:
        return "" if name == pattern else None
    inside = len(name) - len(before) - len(after)
    if inside < 1 or not (name.startswith(before) and name.endswith(after)):
        return None
    return name[len(before) : len(before) + inside]


def _mapped(
    at: Mapping[str, str], names: Sequence[str], units: Mapping[str, str], which: Sequence[str]
) -> Signal | None:
    columns = [at.get(quantity) for quantity in which]
    if not all(column in names for column in columns):
        return None
    x, y, z = (str(column) for column in columns)
    return Signal((x, y, z), _unit_in(x, units.get(x, ""), GYR_UNITS | ACC_UNITS))


def _called(names: Sequence[str], plain: str) -> str | None:
    return next((name for name in names if _plain(name) == plain), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _signal(name: str, below: str = "") -> _Part | None:
    bare = _BRACKETS.sub(lambda m: "" if _any_unit(m[1]) else m[0], name).strip()
    found = _SIGNAL.fullmatch(bare)
    if not found or (found["what"][0] in "aA" and _NOT_SPECIFIC_FORCE.search(found["before"])):
        return None
    angular = found["what"].lower().startswith(("gyr", "ang"))
    known = GYR_UNITS if angular else ACC_UNITS
    before, after = found["before"].strip(" ._-:/"), (found["after"] or "").strip(" ._-:/")
    suffix = unit_of(after, tuple(known)) if after else None
    unit = suffix or _unit_in(name, below, known)
    sensor = before if suffix else " ".join(part for part in (before, after) if part)
    return _Part(sensor, "gyr" if angular else "acc", found["axis"].lower(), unit)


def _time(name: str, below: str = "") -> tuple[str, str | None] | None:
    """Sensor and unit of a column with times."""
    bare = _BRACKETS.sub(lambda m: "" if _any_unit(m[1]) else m[0], name).strip()
    found = _TIME.fullmatch(bare)
    if not found or _plain(name) == "sampletimefine":
        return None
    unit, after = _unit_in(name, below, TIME_UNITS), (found["after"] or "").strip(" ._-:/")
    if found["unit"]:
        written = unit_of(found["unit"], tuple(TIME_UNITS))
        unit = written or unit
        after = after if written else " ".join(part for part in (found["unit"], after) if part)
    elif _plain(bare) == "seconds":
        unit = "s"
    before = found["before"].strip(" ._-:/")
    return " ".join(part for part in (before, after) if part), unit


def _any_unit(text: str) -> bool:
    return unit_of(text, (*GYR_UNITS, *ACC_UNITS, *TIME_UNITS)) is not None


def _unit_in(name: str, below: str, known: Iterable[str]) -> str | None:
    """The unit in brackets in a column's name, or in the line below it."""
    for text in (*(m[1] for m in _BRACKETS.finditer(name)), below):
        if text and (unit := unit_of(text, tuple(known))):
            return unit
    return None


def _missing(of: Mapping[tuple[str, str], str], sensor: str) -> list[str]:
    """Canonical names of a device's missing axes; no accelerometer at all is no fault."""
    some_acc = any(what == "acc" for what, _ in of)
    wanted = [("gyr", axis) for axis in "xyz"] + [("acc", axis) for axis in "xyz" if some_acc]
    named = f"{sensor} " if sensor else ""
    return [f"{named}{what}_{axis}" for what, axis in wanted if (what, axis) not in of]


def _triple(
    of: Mapping[tuple[str, str], str], parts: Mapping[str, _Part], what: str
) -> Signal | None:
    if not all((what, axis) in of for axis in "xyz"):
        return None
    x, y, z = (of[what, axis] for axis in "xyz")
    return Signal((x, y, z), parts[x].unit)
