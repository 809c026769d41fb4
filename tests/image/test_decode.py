"""Files of all kinds become the picture that a person sees, or are refused with a reason."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from photos import encoded, jpeg, photo
from PIL import Image

from cis_tasks.errors import PermanentError
from cis_tasks.image.decode import Budget, decode


def gradient(width: int = 96, height: int = 64) -> Image.Image:
    """Red grows to the right, green downwards: every turn and swap shows."""
    red = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([red, green, red * 0 + 30], 2).astype(np.uint8))


def difference(one: object, other: object) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("AVIF", {"quality": 90}),
    ],
)
def test_every_common_format_shows_the_same_picture(kind: str, options: dict[str, object]) -> None:
    picture = decode(encoded(gradient(), kind, **options), "a.file")
    assert picture.format == kind
    assert (picture.width, picture.height) == (96, 64)
    assert difference(picture.pixels, gradient()) < 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_however_the_camera_was_held(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(gradient(), kind, exif=exif)
    picture = decode(data, "a")
    with Image.open(io.BytesIO(data)) as stored:
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(stored).convert("RGB")
    assert (picture.width, picture.height) == upright.size
    assert difference(picture.pixels, upright) < 6


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_without_red_green_and_blue_is_shown_in_them(mode: str) -> None:
    picture = decode(encoded(gradient().convert(mode), "JPEG", quality=95), "a.jpg")
    assert difference(picture.pixels, gradient().convert(mode).convert("RGB")) < 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA"])
def test_every_kind_of_png_and_gif_pixel_is_shown(mode: str) -> None:
    source = gradient().convert("P").convert(mode) if mode == "PA" else gradient().convert(mode)
    kind = "GIF" if mode == "PA" else "PNG"
    picture = decode(encoded(source.convert("P") if mode == "PA" else source, kind), "a.png")
    assert difference(picture.pixels, source.convert("RGB")) < 6


def test_what_is_transparent_is_white() -> None:
    clear = gradient()
    clear.putalpha(0)
    for kind in ("PNG", "WEBP", "TIFF"):
        assert decode(encoded(clear, kind), "a").pixels.min() == 255
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30])
    for kind in ("PNG", "GIF"):
        assert decode(encoded(palette, kind, transparency=0), "a").pixels.min() == 255


def test_sixteen_bits_become_eight() -> None:
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = decode(encoded(Image.fromarray(values), kind), "a").pixels
        assert difference(pixels[:, :, 1], values / 257) < 1.5


def test_only_the_first_image_of_a_file_with_many_is_looked_at() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert difference(decode(data, "a").pixels, frames[0]) < 3


def test_a_picture_of_32_pixels_a_side_is_given_as_it_is() -> None:
    assert decode(encoded(gradient(32, 32), "PNG"), "a", (256, 256)).pixels.shape == (32, 32, 3)


def test_a_large_jpeg_is_decoded_no_larger_than_it_must_be() -> None:
    data = encoded(gradient(2000, 1504), "JPEG")
    picture = decode(data, "a", (256, 256))
    assert (picture.width, picture.height) == (2000, 1504)
    assert picture.pixels.shape == (376, 500, 3)
    assert difference(picture.pixels, gradient(2000, 1504).resize((500, 376))) < 6


HUNDRED_MEGAPIXELS = """
import io, resource, sys
from PIL import Image
sys.path.insert(0, "tests/image")
from cis_tasks.image.decode import decode
import cis_tasks.image.frame, torch
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
picture = decode(data, "large", (256, 256))
assert picture.width * picture.height == 100_000_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(("kind", "limit_mib"), [("JPEG", 64), ("PNG", 700)])
def test_a_hundred_megapixels_are_decoded_within_bounds(
    tmp_path: Path, kind: str, limit_mib: int
) -> None:
    file = str(tmp_path / "large")
    if kind == "JPEG":
        Image.new("RGB", (12_500, 8_000), "teal").save(file, kind)
    else:
        Path(file).write_bytes(png_of(12_500, 8_000, rows=8_000))
    done = subprocess.run(
        [sys.executable, "-c", HUNDRED_MEGAPIXELS, file], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < limit_mib


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int, rows: int = 1) -> bytes:
    """A black PNG of colours, of which so many rows are there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer, row = zlib.compressobj(1), bytes(1 + 3 * width)
    packed = b"".join([*(packer.compress(row) for _ in range(rows)), packer.flush()])
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


PNG_KINDS = [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (8, 3), (8, 4)]
PNG_KINDS += [(16, 4), (8, 6), (16, 6)]
"""Bits per value and colour type of every PNG that is common."""


def plain_png(size: tuple[int, int], kind: tuple[int, int], *, interlaced: bool) -> bytes:
    """The unpacked rows of a PNG of zeros; rows of all seven passes where it is interlaced."""
    bits = kind[0] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind[1]]
    columns, rows = np.arange(size[0]), np.arange(size[1])
    passes = [(columns, rows)]
    if interlaced:  # which pixels of each 8 × 8 belong to which pass, as the standard draws it
        drawn = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777"]
        drawn += ["56565656", "77777777"]
        grid = np.array([[int(c) for c in line] for line in drawn])[rows % 8][:, columns % 8]
        members = [grid == number for number in range(1, 8)]
        passes = [(np.flatnonzero(m.any(0)), np.flatnonzero(m.any(1))) for m in members]
    return b"".join(bytes(1 + (len(c) * bits + 7) // 8) * len(r) for c, r in passes if len(c))


def packed_png(
    size: tuple[int, int], kind: tuple[int, int], rows: bytes, *, interlaced: bool
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, *kind, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(3 * 2 ** kind[0])) if kind[1] == 3 else b""
    packed = zlib.compress(rows)
    parts = [chunk(b"IDAT", packed[:9]), chunk(b"IDAT", packed[9:]), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + b"".join(parts)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from(PNG_KINDS),
    interlaced=st.booleans(),
    missing=st.integers(0, 200),
)
def test_a_png_needs_every_byte_of_its_rows(
    size: tuple[int, int], kind: tuple[int, int], interlaced: bool, missing: int
) -> None:
    rows = plain_png(size, kind, interlaced=interlaced)
    missing = min(missing, len(rows))
    file = packed_png(size, kind, rows[: len(rows) - missing], interlaced=interlaced)
    if not missing:
        assert decode(file, "whole").pixels.shape == (size[1], size[0], 3)
        return
    with pytest.raises(PermanentError) as caught:
        decode(file, "short")
    assert caught.value.code == "image_unreadable"


def bright_png(rows: int) -> bytes:
    """White rows, of 64 that there should be."""
    size, kind = (64, 64), (8, 2)
    filled = (b"\0" + b"\xff" * 3 * 64) * rows
    return packed_png(size, kind, filled, interlaced=False)


def taller_tiff() -> bytes:
    """A TIFF whose header claims twice as many rows as it says the places of."""
    data = bytearray(encoded(gradient(), "TIFF"))
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * entries, 12):
        tag, kind, count, _ = struct.unpack_from("<HHII", data, entry)
        if tag == 257:  # ImageLength
            struct.pack_into("<HHII", data, entry, tag, kind, count, 128)
    return bytes(data)


def taller_gif() -> bytes:
    """A GIF whose header and frame claim twice as many rows as are there."""
    data = bytearray(encoded(gradient().convert("P"), "GIF"))
    frame = data.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 96, 64))
    for at in (6, frame + 5):
        struct.pack_into("<HH", data, at, 96, 128)
    return bytes(data)


def taller_webp(*, lossless: bool) -> bytes:
    """A WebP whose frame claims twice as many rows as are there."""
    data = bytearray(encoded(gradient(), "WEBP", lossless=lossless))
    if lossless:
        at = data.index(b"VP8L") + 9
        (sides,) = struct.unpack_from("<I", data, at)
        struct.pack_into("<I", data, at, sides & ~(0x3FFF << 14) | 127 << 14)
    else:
        struct.pack_into("<H", data, data.index(b"\x9d\x01\x2a") + 5, 128)
    return bytes(data)


def ended_early(mode: str, **options: object) -> bytes:
    """Half a JPEG that ends in good order."""
    data = encoded(gradient().convert(mode), "JPEG", **options)
    return data[: len(data) // 2] + b"\xff\xd9"


def bad_files() -> dict[str, tuple[bytes, str]]:
    whole = jpeg("coffee.png", quality=85)
    png, gif = encoded(gradient(), "PNG"), bytearray(encoded(Image.new("P", (1, 1)), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    return {
        "empty": (b"", "image_empty"),
        "text": (b"hello", "image_unknown"),
        "html": (b"<html>" * 100, "image_unknown"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image_unknown"),
        "pdf": (b"%PDF-1.4\n", "image_unknown"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image_unknown"),
        "jpeg-start": (b"\xff\xd8\xff", "image_unreadable"),
        "jpeg-half": (whole[: len(whole) // 2], "image_unreadable"),
        "jpeg-end": (whole[:-400], "image_unreadable"),
        "jpeg-noise": (whole[:2000] + b"\xff" * 5000, "image_unreadable"),
        "png-half": (png[: len(png) // 2], "image_unreadable"),
        "png-header": (png_of(50_000, 50_000), "image_too_large"),
        "png-cut": (png_of(9_000, 9_000)[:70], "image_unreadable"),
        "png-rows": (bright_png(63), "image_unreadable"),
        "jpeg-rows": (ended_early("RGB"), "image_unreadable"),
        "cmyk-rows": (ended_early("CMYK"), "image_unreadable"),
        "cmyk-progressive-rows": (ended_early("CMYK", progressive=True), "image_unreadable"),
        "tiff-rows": (taller_tiff(), "image_unreadable"),
        "gif-rows": (taller_gif(), "image_unreadable"),
        "webp-rows": (taller_webp(lossless=False), "image_unreadable"),
        "webp-lossless-rows": (taller_webp(lossless=True), "image_unreadable"),
        "gif-bomb": (bytes(gif), "image_too_large"),
        "webp-half": (encoded(gradient(), "WEBP")[:60], "image_unreadable"),
        "tiff-half": (encoded(gradient(), "TIFF")[:500], "image_unreadable"),
    }


@pytest.mark.parametrize("name", bad_files())
def test_what_is_no_whole_image_is_refused_with_a_reason(name: str) -> None:
    data, code = bad_files()[name]
    with pytest.raises(PermanentError) as caught:
        decode(data, f"{name}.jpg")
    assert caught.value.code == code
    assert f"{name}.jpg" in caught.value.message
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@given(st.integers(0, 2000), st.binary(min_size=1, max_size=40))
def test_a_damaged_file_is_a_picture_or_a_permanent_error(at: int, noise: bytes) -> None:
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP"):
        data = encoded(gradient(), kind)
        place = at % len(data)
        try:
            decode(data[:place] + noise + data[place + len(noise) :], "damaged")
        except PermanentError:
            continue


def test_pictures_that_together_need_too_much_wait_for_each_other() -> None:
    budget, most, running = Budget(100), 0, 0
    lock = threading.Lock()

    def use(amount: int) -> None:
        nonlocal most, running
        with budget.of(amount):
            with lock:
                running += amount
                most = max(most, running)
            with lock:
                running -= amount

    threads = [threading.Thread(target=use, args=(60,)) for _ in range(20)]
    threads += [threading.Thread(target=use, args=(400,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert most in {60, 400}


def test_a_photograph_looks_the_same_through_the_scaled_decoder_and_through_pillow() -> None:
    with Image.open(photo("china.jpg")) as image:
        full = image.convert("RGB")
    data = photo("china.jpg").read_bytes()
    assert difference(decode(data, "china.jpg").pixels, full) < 1
