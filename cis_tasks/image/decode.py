"""From a file's bytes to a picture, whatever the format, within a bound of memory.

The content says what a file is, not its name. A JPEG is decoded at an eighth, a quarter or half of
its size where that is enough for the model. Everything else goes through Pillow.
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cis_tasks.errors import PermanentError
from cis_tasks.image.completeness import require_all_rows, require_all_strips
from cis_tasks.image.frame import Pixels

MAX_PIXELS = 100_000_000
MAX_BYTES = 128 << 20
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
MEMORY_BYTES = 1 << 30
"""What all decoders of the process may hold at a time; a larger picture is decoded alone."""

PILLOW_BYTES_PER_PIXEL = 12  # Pillow's own four, a converted copy, and the array
JPEG_BYTES_PER_PIXEL = 6  # a progressive one keeps all coefficients, three of two bytes
ORIENTATION = 0x0112
EXIF_WITHIN = 1 << 17  # an APP1 segment comes before the picture
BACKGROUND = (255, 255, 255)
DEEP = re.compile(r"I;16[BLN]?$")
AIM_PIXELS = 4_000_000  # larger ones are shrunk before their colours are converted

# Pillow warns of what is between its own limit and twice that; ours is checked before decoding.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright.

    Attributes:
        pixels: height × width × RGB; may be smaller than the file's, but not than was asked for.
        width: of the image in the file as people see it, pixels.
        height: the same.
        format: such as ``JPEG``.
    """

    pixels: Pixels
    width: int
    height: int
    format: str


class Budget:
    """Lets in so much at a time; what exceeds it by itself gets in alone."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, amount: int) -> Iterator[None]:
        """Within the block, ``amount`` is used; waits until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + amount <= self._total)
            self._used += amount
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()


memory = Budget(MEMORY_BYTES)


def decode(data: bytes, name: str, least: tuple[int, int] = (0, 0)) -> Picture:
    """Decode the first image of a file.

    The camera's orientation is applied, what is transparent becomes white, and 16 bits become 8.

    Args:
        data: the file.
        name: what to call it in errors.
        least: height and width that the picture must have at least, where the file has; 0 for all
            that there is.

    Raises:
        PermanentError: ``image_empty``, ``image_too_large``, ``image_unknown`` or
            ``image_unreadable``.
    """
    if not data:
        raise PermanentError("image_empty", f"{name} has no bytes.", "Upload it again.")
    if len(data) > MAX_BYTES:
        raise _too_large(name, f"{len(data) >> 20} MiB", f"{MAX_BYTES >> 20} MiB")
    if data.startswith(b"\xff\xd8\xff"):
        picture = _jpeg(data, name, least)
        if picture is not None:
            return picture
    return _any(data, name)


def _jpeg(data: bytes, name: str, least: tuple[int, int]) -> Picture | None:
    """Decode a JPEG; None where it has colours that only Pillow knows."""
    with _explained(name):
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _require_size(name, width, height)
        if colours in {"CMYK", "YCCK"}:
            with memory.of(width * height * JPEG_BYTES_PER_PIXEL):  # Pillow takes half a file
                simplejpeg.decode_jpeg(data, "CMYK", min_height=1, min_width=1)
            return None
        orientation = _orientation(data)
        side = max(least)
        with memory.of(width * height * JPEG_BYTES_PER_PIXEL):
            pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=side, min_width=side)
    upright = _upright(pixels, orientation)
    if orientation >= 5:  # stands on its side
        width, height = height, width
    return Picture(upright, width, height, "JPEG")


def _any(data: bytes, name: str) -> Picture:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(name, "its header promises more", f"{MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise PermanentError(
            "image_unknown",
            f"{name} is not an image of a kind that is read here.",
            f"Upload one of these: {', '.join(FORMATS)}.",
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(name, error) from error
    with image:
        _require_size(name, *image.size)
        with memory.of(image.width * image.height * PILLOW_BYTES_PER_PIXEL), _explained(name):
            upright = ImageOps.exif_transpose(_loaded(image, data))
            width, height = upright.size
            return Picture(_rgb(_shrunk(upright)), width, height, image.format or "")


def _loaded(image: Image.Image, data: bytes) -> Image.Image:
    image.seek(0)
    require_all_strips(image)
    image.load()
    require_all_rows(image, data)
    return image


def _shrunk(image: Image.Image) -> Image.Image:
    """A large picture made smaller by a whole number, so that its copies are small."""
    factor = math.isqrt(image.width * image.height // AIM_PIXELS)
    if factor < 2 or image.mode in {"1", "P", "PA"} or DEEP.match(image.mode):
        return image
    fits = max(1, min(factor, image.width, image.height))
    return image.reduce(fits)


def _rgb(image: Image.Image) -> Pixels:
    """Eight bits of red, green and blue of any Pillow image."""
    if DEEP.match(image.mode):
        return _grey(np.asarray(image, np.uint16) >> 8)
    if image.mode in {"I", "F"}:
        return _grey(_spread(np.asarray(image, np.float32)))
    if image.has_transparency_data:
        over = image.convert("RGBA")
        under = Image.new("RGBA", over.size, (*BACKGROUND, 255))
        under.alpha_composite(over)
        image = under
    return np.array(image.convert("RGB"))


def _spread(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values without a scale of their own, from their least to their greatest."""
    finite = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = float(finite.min()), float(finite.max())
    spread: NDArray[np.float32] = (finite - low) * np.float32(255 / (high - low or 1))
    return spread


def _grey(values: NDArray[np.generic]) -> Pixels:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


def _orientation(data: bytes) -> int:
    """How the camera was held, 1 to 8 as in EXIF; 1 where the file does not say."""
    if b"Exif\x00\x00" not in data[:EXIF_WITHIN]:
        return 1
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        found = image.getexif().get(ORIENTATION, 1)
    return int(found) if found in range(1, 9) else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn a picture as its EXIF orientation says.

    Source: CIPA DC-008, Exif 2.32, tag 274.
    """
    turned: Pixels = pixels.transpose(1, 0, 2) if orientation >= 5 else pixels
    if orientation in {3, 4, 7, 8}:
        turned = turned[::-1]
    if orientation in {2, 3, 6, 7}:
        turned = turned[:, ::-1]
    return pixels if orientation == 1 else np.ascontiguousarray(turned)


def _require_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} × {height} pixels", f"{MAX_PIXELS:,} pixels")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever a decoder stumbles over is the file's fault; the decoders raise all kinds."""
    try:
        yield
    except (MemoryError, PermanentError):
        raise
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> PermanentError:
    return PermanentError(
        "image_unreadable",
        f"{name} is damaged or not complete: {error or type(error).__name__}.",
        "Check that it opens on your side, and upload it again.",
    )


def _too_large(name: str, found: str, limit: str) -> PermanentError:
    return PermanentError(
        "image_too_large",
        f"{name} is too large: {found}, at most {limit}.",
        "Make it smaller; the model looks at a few hundred pixels a side.",
    )
