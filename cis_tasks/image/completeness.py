"""Whether a file holds all the pixels that its header promises.

A file that was cut off is refused by every decoder. One that ends in good order, only too soon, is
not by some of them: they leave the rows that never came black, and a model has an opinion of black
pictures too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

PNG_START = 8  # bytes of the signature
CHUNK_FRAME = 12  # length, type and checksum around a chunk's data
HEADER = b"IHDR"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type → values per pixel."""

ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""Passes of an interlaced PNG: first column and row, steps to the right and down."""

BLOCK = 1 << 20  # bytes that are unpacked at a time


class IncompleteError(Exception):
    """Rows are missing."""


def require_all_strips(image: Image.Image) -> None:
    """Check that an opened TIFF says where each of its rows is; before it is loaded.

    Raises:
        IncompleteError: it does not.
    """
    if image.format != "TIFF" or not image.tile:  # type: ignore[attr-defined]
        return
    corners = [tile[1] for tile in image.tile]  # type: ignore[attr-defined]
    right, bottom = (max(corner[side] for corner in corners) for side in (2, 3))
    if right < image.width or bottom < image.height:
        raise IncompleteError(f"{bottom} of {image.height} rows are there")


def require_all_rows(image: Image.Image, data: bytes) -> None:
    """Check that a loaded PNG had something for each of its rows.

    Only a last row that is all zeros may be one that never came; then, and where it is interlaced,
    what was packed is counted.

    Args:
        image: the image, as it was decoded.
        data: its file.

    Raises:
        IncompleteError: it had not.

    Source: https://www.w3.org/TR/png-3/#7Scanline
    """
    if image.format != "PNG":
        return
    header = next(body for kind, body in _chunks(data) if kind == HEADER)
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    last = image.crop((0, height - 1, width, height)).tobytes()
    if last.strip(b"\0") and not interlaced:
        return
    bits *= PNG_CHANNELS[colours]
    needed = sum(
        rows * (1 + (columns * bits + 7) // 8)
        for columns, rows in _passes(width, height, interlaced=bool(interlaced))
    )
    found = _unpacked(data, needed)
    if found < needed:
        raise IncompleteError(f"{found:,} of {needed:,} bytes of pixels are there")


def _passes(width: int, height: int, *, interlaced: bool) -> Iterator[tuple[int, int]]:
    """Columns and rows of each pass over a PNG; one without columns has no rows."""
    if not interlaced:
        yield width, height
        return
    for left, top, right, down in ADAM7:
        columns, rows = -((left - width) // right), -((top - height) // down)
        if columns > 0 and rows > 0:
            yield columns, rows


def _unpacked(data: bytes, enough: int) -> int:
    """How many bytes a PNG's pixels are when unpacked, counted no further than needed."""
    unpacker, size = zlib.decompressobj(), 0
    for kind, body in _chunks(data):
        waiting: bytes | memoryview = body if kind == b"IDAT" else b""
        while waiting and size < enough:
            size += len(unpacker.decompress(waiting, BLOCK))
            waiting = unpacker.unconsumed_tail
    return size if size >= enough else size + len(unpacker.flush())


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and data of each chunk of a PNG."""
    view, at = memoryview(data), PNG_START
    while at + CHUNK_FRAME <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield bytes(view[at + 4 : at + 8]), view[at + 8 : at + 8 + length]
        at += CHUNK_FRAME + length
