"""An image that was sent: what it is, whatever it is called, and where it goes."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from secrets import token_hex

from PIL import Image, UnidentifiedImageError

from cis_tasks.pipelines import Pipeline, Role, find
from cis_tasks.web.bodies import Upload
from cis_tasks.web.problems import Problem

PIPELINE = "image"
MAX_STEM = 120  # characters
KINDS = {
    "JPEG": ("image/jpeg", ".jpg"),
    "PNG": ("image/png", ".png"),
    "WEBP": ("image/webp", ".webp"),
    "GIF": ("image/gif", ".gif"),
    "BMP": ("image/bmp", ".bmp"),
    "TIFF": ("image/tiff", ".tif"),
    "AVIF": ("image/avif", ".avif"),
    "PPM": ("image/x-portable-anymap", ".ppm"),
}
"""Pillow's name of a format → its media type and file ending."""


@dataclass(frozen=True)
class SentImage:
    """An image, looked at as far as its header goes.

    Attributes:
        stem: what the client calls it, without folders and ending.
        name: name of its job, which no other image has.
        key: where it goes in the input bucket.
        media_type: what its bytes are.
        data: its bytes.
    """

    stem: str
    name: str
    key: str
    media_type: str
    data: bytes


def inspect_image(upload: Upload, max_pixels: int) -> SentImage:
    """What a client sent, if it is an image that the pipeline takes.

    Only the header is read here; the worker decodes the rest and may still refuse it.

    Raises:
        Problem: it is no image, or claims to be larger than any may be.
    """
    kind = find(PIPELINE)
    role = kind.roles[0]
    format_name, size = _header(upload, _formats(role))
    if size[0] * size[1] > max_pixels:
        raise Problem(
            413,
            "image_too_many_pixels",
            f"The image claims to be {size[0]} × {size[1]} pixels; "
            f"at most {max_pixels // 1_000_000} million are taken.",
        )
    media_type, suffix = KINDS[format_name]
    stem, given = split_name(upload.filename)
    suffix = given if given.lower() in role.suffixes else suffix
    name = f"{unique_folder()}/{stem}"
    return SentImage(stem, name, role.key_for(name, suffix), media_type, upload.data)


def split_name(filename: str) -> tuple[str, str]:
    """A client's file name as one safe path segment, without and with its ending apart.

    Folders of either kind of slash, control characters and dots at the ends go; letters of any
    script stay.
    """
    base = unicodedata.normalize("NFC", re.split(r"[/\\]", filename)[-1])
    clean = "".join(c for c in base if unicodedata.category(c)[0] != "C").strip(" .")
    path = PurePosixPath(clean or "image")
    stem = path.stem.strip(" .")[:MAX_STEM].strip(" .")
    return stem or "image", path.suffix


def unique_folder() -> str:
    """A folder that nobody has used; later ones come later in listings."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{token_hex(8)}"


def image_pipeline() -> Pipeline:
    """The pipeline that images go to."""
    return find(PIPELINE)


def _formats(role: Role) -> tuple[str, ...]:
    return tuple(name for name, (_, suffix) in KINDS.items() if suffix in role.suffixes)


def _header(upload: Upload, formats: tuple[str, ...]) -> tuple[str, tuple[int, int]]:
    """Format and size that the header tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(upload.data), formats=formats) as image:
                return str(image.format).replace("MPO", "JPEG"), image.size
        except Image.DecompressionBombError as error:
            raise Problem(
                413, "image_too_many_pixels", f"The image is refused: {error}."
            ) from error
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise Problem(
                415,
                "not_an_image",
                f"{upload.filename[:100]!r} is none of {', '.join(formats)}.",
            ) from error
