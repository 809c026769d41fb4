"""Photographs that ship in packages, and what is on them; and images made up."""

from __future__ import annotations

import io
from pathlib import Path

import skimage
import sklearn
from PIL import Image

SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets/images"

PHOTOS = {
    "chelsea.png": {"tiger cat", "tabby", "Egyptian cat"},
    "coffee.png": {"espresso"},
    "camera.png": {"tripod"},
    "motorcycle_left.png": {"moped"},
    "rocket.jpg": {"missile"},
    "china.jpg": {"palace"},
    "flower.jpg": {"daisy"},
}
"""File → labels that are right for it."""


def photo(name: str) -> Path:
    """The file of a photograph."""
    found = SKIMAGE / name
    return found if found.exists() else SKLEARN / name


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as a file's bytes."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg(name: str, **options: object) -> bytes:
    """A photograph as a JPEG."""
    with Image.open(photo(name)) as image:
        return encoded(image.convert("RGB"), "JPEG", **options)
