"""A file of readings as a table: its names, what stands above them, and its numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Protocol

import polars as pl

from cis_tasks.errors import PermanentError
from cis_tasks.spine.readers.columns import is_called, is_known

DELIMITERS = ",;\t|"
PREAMBLE_LINES = 200  # above the header, at most
COMMENT = re.compile(r"\s*(//|#)")
NOTE = re.compile(r"\s*(?://|#)?\s*([^:=,;\t]{2,40}?)\s*[:=]\s*[,;\t]?\s*(.*?)[\s,;\t]*$")
UNITS_LINES = 3  # below the header, at most

COLUMNS_HINT = (
    "One row per reading: timestamp_s in seconds, sensor_id, gyr_x,y,z in rad/s, acc_x,y,z in "
    "m/s². Other layouts are read too: see docs/spine-formats.md, or name the columns in the "
    "rig's recording.columns."
)


class Table(Protocol):
    """What a reader needs of a file.

    Attributes:
        file: its name.
        names: its columns, in order.
        notes: what stands above the header, ``key: value``, keys in lower case.
        units: column → the text below its name, where a line there holds no numbers.
    """

    @property
    def file(self) -> str: ...  # noqa: D102
    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def notes(self) -> dict[str, str]: ...  # noqa: D102
    @property
    def units(self) -> dict[str, str]: ...  # noqa: D102

    def read(self, numbers: Sequence[str], texts: Sequence[str]) -> pl.DataFrame:
        """The named columns, as numbers (null or NaN where there is none) and as text."""


@dataclass(frozen=True)
class TextTable:
    """A table in delimited text."""

    file: str
    names: tuple[str, ...]
    notes: dict[str, str]
    units: dict[str, str]
    delimiter: str
    decimal_comma: bool
    data: bytes = field(repr=False)

    def read(self, numbers: Sequence[str], texts: Sequence[str]) -> pl.DataFrame:
        """See ``Table``. Cells that are no numbers are null."""
        try:
            return self._parse({name: pl.Float64() for name in numbers}, numbers, texts)
        except pl.exceptions.PolarsError:  # some cell is no number: look at each
            return self._parse_leniently(numbers, texts)

    def _parse_leniently(self, numbers: Sequence[str], texts: Sequence[str]) -> pl.DataFrame:
        try:
            rows = self._parse({}, numbers, texts)
        except pl.exceptions.PolarsError as error:
            raise unreadable(self.file, "CSV file", error) from error
        trimmed = pl.col(numbers).str.strip_chars()
        if self.decimal_comma:
            trimmed = trimmed.str.replace(",", ".", literal=True)
        return rows.with_columns(trimmed.cast(pl.Float64, strict=False))

    def _parse(
        self, kinds: dict[str, pl.DataType], numbers: Sequence[str], texts: Sequence[str]
    ) -> pl.DataFrame:
        wanted = [*numbers, *texts]
        rows = pl.read_csv(
            BytesIO(self.data),
            has_header=False,
            separator=self.delimiter,
            decimal_comma=self.decimal_comma and bool(kinds),
            schema={name: kinds.get(name, pl.String()) for name in self.names},
            columns=[self.names.index(name) for name in wanted],
            truncate_ragged_lines=True,
        )
        stripped = pl.col(texts).str.strip_chars().replace("", None)
        return rows.with_columns(stripped) if texts else rows


@dataclass(frozen=True)
class FrameTable:
    """A table that came with types."""

    file: str
    names: tuple[str, ...]
    rows: pl.DataFrame = field(repr=False)
    notes: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    def read(self, numbers: Sequence[str], texts: Sequence[str]) -> pl.DataFrame:
        """See ``Table``.

        Raises:
            PermanentError: ``sensors_unreadable`` where a column holds something else.
        """
        for name in numbers:
            kind = self.rows.schema[name]
            if not (kind.is_numeric() or kind == pl.String):
                raise PermanentError(
                    "sensors_unreadable",
                    f"{self.file} has {kind} in its column {name}, where numbers belong.",
                    COLUMNS_HINT,
                )
        return self.rows.select(
            *(pl.col(name).cast(pl.Float64, strict=False) for name in numbers),
            *(pl.col(name).cast(pl.String).str.strip_chars().replace("", None) for name in texts),
        )


def open_parquet(file: str, data: bytes) -> FrameTable:
    """A Parquet file.

    Raises:
        PermanentError: ``sensors_unreadable``.
    """
    try:
        rows = pl.read_parquet(BytesIO(data))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(file, "Parquet file", error) from error
    return FrameTable(file, tuple(rows.columns), rows)


def open_text(file: str, data: bytes, named: Collection[str] = ()) -> TextTable:
    """Delimited text: finds the delimiter, the header, and what stands around it.

    Args:
        file: its name.
        data: its bytes; UTF-8, or else Windows' Western encoding.
        named: column names, with ``{sensor}`` where it varies, besides the usual ones.

    Raises:
        PermanentError: ``sensors_not_text``.
    """
    text_bytes = _as_utf8(file, data)
    head = text_bytes[: 64 * 1024].decode("utf-8", errors="replace").splitlines(keepends=True)
    at, delimiter = _find_header(head[:PREAMBLE_LINES], named)
    names = _distinct([cell.strip().strip('"') for cell in _split(head[at], delimiter)])
    first, units = _find_data(head[at + 1 :], names, delimiter)
    skipped = sum(len(line.encode()) for line in head[: at + 1 + first])
    body = text_bytes[skipped:]
    sample = "".join(head[at + 1 + first :][:3])
    if delimiter == " " and len(_split(sample.partition("\n")[0], " ")) != len(names):
        body, delimiter = re.sub(rb"(?m)^ +| +$", b"", re.sub(rb" +", b" ", body)), " "
    return TextTable(
        file=file,
        names=names,
        notes=_notes(head[:at]),
        units=units,
        delimiter=delimiter,
        decimal_comma=delimiter != "," and re.search(r"\d,\d", sample) is not None,
        data=body,
    )


def unreadable(file: str, kind: str, error: Exception) -> PermanentError:
    """The error for a file that breaks off or is of another kind."""
    return PermanentError(
        "sensors_unreadable",
        f"{file} is not a readable {kind}: {str(error).splitlines()[0]}",
        "Export the recording again, whole.",
    )


def _as_utf8(file: str, data: bytes) -> bytes:
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data:
        raise _not_text(file, "it holds zero bytes")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        control = re.search(rb"[\x01-\x08\x0e-\x1f\x81\x8d\x8f\x90\x9d]", data)
        if control:
            raise _not_text(file, f"byte {error.start} is not UTF-8") from error
        return data.decode("cp1252").encode()  # ° and ² from an older program
    return data


def _not_text(file: str, why: str) -> PermanentError:
    return PermanentError(
        "sensors_not_text",
        f"{file} is not text: {why}.",
        "Export the recording as UTF-8 CSV, or as .parquet.",
    )


def _find_header(lines: Sequence[str], named: Collection[str]) -> tuple[int, str]:
    """Line of the header and its delimiter: the first line with at least two known names."""
    fallback = None
    for at, line in enumerate(lines):
        if not line.strip() or COMMENT.match(line) or line.lower().startswith("sep="):
            continue
        delimiter = _delimiter(line)
        cells = [cell.strip().strip('"') for cell in _split(line, delimiter)]
        if sum(is_called(cell, named) or is_known(cell) for cell in cells) >= 2:
            return at, delimiter
        if fallback is None and delimiter != " " and not NOTE.match(line):
            fallback = at, delimiter
    return fallback or (0, ",")


def _delimiter(line: str) -> str:
    best = max(DELIMITERS, key=line.count)
    return best if line.count(best) else " "


def _split(line: str, delimiter: str) -> list[str]:
    return line.rstrip("\r\n").split(delimiter)


def _find_data(
    lines: Sequence[str], names: Sequence[str], delimiter: str
) -> tuple[int, dict[str, str]]:
    """How many lines below the header hold units instead of numbers, and those units."""
    units: dict[str, str] = {}
    for k, line in enumerate(lines[:UNITS_LINES]):
        cells = [cell.strip().strip('"') for cell in _split(line, delimiter)]
        if any(re.search(r"\d", re.sub(r"s\W*-?2|²", "", cell)) for cell in cells) or not any(
            cells
        ):
            return (k if any(units) else 0), units
        units = {name: cell.strip("()[]") for name, cell in zip(names, cells, strict=False) if cell}
    return (min(len(lines), UNITS_LINES) if units else 0), units


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names of which none is empty or twice there."""
    seen: dict[str, int] = {}
    out = []
    for k, name in enumerate(names):
        plain = name or f"column {k + 1}"
        seen[plain] = seen.get(plain, 0) + 1
        out.append(plain if seen[plain] == 1 else f"{plain} ({seen[plain]})")
    return tuple(out)


def _notes(lines: Sequence[str]) -> dict[str, str]:
    notes: dict[str, str] = {}
    for line in lines:
        if COMMENT.match(line):
            notes["//"] = ""
        if found := NOTE.match(line):
            notes.setdefault(found[1].strip().lower(), found[2])
    return notes
