"""From a decoded picture to the pixels that a model takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cis_tasks.image.card import Preprocess

if TYPE_CHECKING:
    import torch

Pixels: TypeAlias = NDArray[np.uint8]
"""An image, height × width × RGB."""


def least_sides(preprocess: Preprocess) -> tuple[int, int]:
    """Least height and width, pixels, of a picture that need not be enlarged for the model."""
    height, width = preprocess.size
    if preprocess.fit == "stretch":
        return height, width
    side = math.ceil(max(height, width) / preprocess.crop)
    return side, side


def frame(picture: Pixels, preprocess: Preprocess) -> Pixels:
    """Cut and resize a picture, antialiased, to a model's size.

    Args:
        picture: height × width × RGB, any size.
        preprocess: the model's.

    Returns:
        `Preprocess.size` × RGB.
    """
    import torch  # noqa: PLC0415  loading it takes seconds
    from torch.nn import functional  # noqa: PLC0415

    cut = picture if preprocess.fit == "stretch" else _middle(picture, preprocess)
    if cut.shape[:2] == preprocess.size:
        return np.ascontiguousarray(cut)
    planes: torch.Tensor = torch.from_numpy(cut).permute(2, 0, 1)[None]
    resized = functional.interpolate(
        planes, preprocess.size, mode=preprocess.resample, antialias=True
    )
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def normalised(images: list[Pixels], preprocess: Preprocess) -> NDArray[np.float32]:
    """A model's input from framed pictures, on the CPU.

    Returns:
        Batch × channels × height × width, or in the order of `Preprocess.layout`.
    """
    height, width = preprocess.size
    batch = np.empty((len(images), 3, height, width), np.float32)
    planes = (0, 1, 2) if preprocess.channels == "RGB" else (2, 1, 0)
    for row, image in zip(batch, images, strict=True):
        for channel, plane in enumerate(planes):
            scale = 1 / (255 * preprocess.std[channel])
            np.multiply(image[:, :, plane], np.float32(scale), out=row[channel])
            row[channel] -= np.float32(preprocess.mean[channel] / preprocess.std[channel])
    return (
        batch if preprocess.layout == "NCHW" else np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
    )


def _middle(picture: Pixels, preprocess: Preprocess) -> Pixels:
    """The middle of a picture in the proportions of the model's input."""
    height, width = picture.shape[:2]
    want_height, want_width = preprocess.size
    scale = preprocess.crop * min(height / want_height, width / want_width)
    cut_height = max(1, round(want_height * scale))
    cut_width = max(1, round(want_width * scale))
    top, left = (height - cut_height) // 2, (width - cut_width) // 2
    return picture[top : top + cut_height, left : left + cut_width]
