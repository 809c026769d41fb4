"""What every peer runs: our own model and decoder, called with an image's bytes."""

from __future__ import annotations

from cis_tasks.image.classification import best
from cis_tasks.image.decode import decode
from cis_tasks.image.frame import frame, least_sides
from cis_tasks.image.models import open_model


class Classifier:
    """The model, loaded once."""

    def __init__(self) -> None:
        self._model = open_model(device="cpu")

    def __call__(self, data: bytes) -> str:
        """The label of an image."""
        bundle = self._model.bundle
        preprocess = bundle.card.preprocess
        picture = decode(data, "image", least_sides(preprocess))
        [scores] = self._model.score([frame(picture.pixels, preprocess)])
        return best(scores, bundle.labels, 1)[0].label
