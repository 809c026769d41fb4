"""The files of a recording: one, a folder of them, or a zip."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cis_tasks.errors import PermanentError
from cis_tasks.spine.readers.tables import COLUMNS_HINT, Table, open_parquet, open_text

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
ACCEPTED = (*TABLE_SUFFIXES, ".zip")
LARGEST_BYTES = 8 * 2**30  # of a zip's files together, unpacked


def open_tables(path: Path, named: tuple[str, ...] = ()) -> Iterator[Table]:
    """Open the tables of a recording one after the other.

    Args:
        path: a file, a folder with one file per sensor, or a zip of such.
        named: column names, with ``{sensor}`` where it varies, besides the usual ones.

    Raises:
        PermanentError: ``sensors_format``, ``sensors_empty``, ``sensors_not_text`` or
            ``sensors_unreadable``.
    """
    if path.is_dir():
        members = sorted(p for p in path.iterdir() if _is_table(PurePosixPath(p.name)))
        if not members:
            raise _nothing_in(path.name, "folder")
        for member in members:
            yield _open(member.name, member.read_bytes(), named)
    elif path.suffix.lower() == ".zip":
        yield from _open_zip(path, named)
    elif path.suffix.lower() in TABLE_SUFFIXES:
        yield _open(path.name, path.read_bytes(), named)
    else:
        raise PermanentError(
            "sensors_format",
            f"{path.name} is not in a format that is read: {path.suffix or 'no suffix'}.",
            f"Accepted are {', '.join(ACCEPTED)}. {COLUMNS_HINT}",
        )


def empty(file: str, what: str = "is empty") -> PermanentError:
    """The error for a file without readings."""
    return PermanentError(
        "sensors_empty", f"{file} {what}.", "Export the recording and upload it again."
    )


def _open(file: str, data: bytes, named: tuple[str, ...]) -> Table:
    if not data.strip():
        raise empty(file)
    if file.lower().endswith(".parquet"):
        return open_parquet(file, data)
    return open_text(file, data, named)


def _open_zip(path: Path, named: tuple[str, ...]) -> Iterator[Table]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if _is_table(PurePosixPath(m.filename))]
            if not members:
                raise _nothing_in(path.name, "zip")
            if sum(member.file_size for member in members) > LARGEST_BYTES:
                raise _bad_zip(path.name, f"it unpacks to more than {LARGEST_BYTES >> 30} GB")
            for member in sorted(members, key=lambda m: m.filename):
                file = PurePosixPath(member.filename).name
                yield _open(file, archive.read(member), named)
    except RuntimeError as error:  # a password
        raise _bad_zip(path.name, str(error)) from error
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, zlib.error) as error:
        raise _bad_zip(path.name, str(error) or "it is cut off") from error


def _is_table(path: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return path.suffix.lower() in TABLE_SUFFIXES and not hidden


def _nothing_in(name: str, kind: str) -> PermanentError:
    return PermanentError(
        "sensors_empty",
        f"The {kind} {name} holds no file of readings.",
        f"Put one file per sensor into it: {', '.join(TABLE_SUFFIXES)}.",
    )


def _bad_zip(name: str, why: str) -> PermanentError:
    return PermanentError(
        "sensors_unreadable",
        f"{name} is not a readable zip: {why}.",
        "Zip the sensors' files again, without a password, and upload it whole.",
    )
