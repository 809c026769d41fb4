"""What is on a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cis_tasks.image.decode import decode
from cis_tasks.image.frame import frame, least_sides
from cis_tasks.image.labels import Label
from cis_tasks.image.models import Model, Scores, open_model

TOP = 5


@dataclass(frozen=True)
class Guess:
    """One class that may be it.

    Attributes:
        index: of the class in the model; labels may repeat, indexes do not.
        wordnet_id: its WordNet synset; None where the model has none.
        label: its name.
        probability: 0 to 1.
    """

    index: int
    wordnet_id: str | None
    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """The form in manifests."""
        return dict(vars(self))


@dataclass(frozen=True)
class Classification:
    """The most probable classes of a picture, best first.

    Attributes:
        guesses: at least one.
        model: name of the model.
        version: its version.
    """

    guesses: tuple[Guess, ...]
    model: str
    version: str

    @property
    def best(self) -> Guess:
        """The most probable class."""
        return self.guesses[0]


def classify(path: Path, model: Model | None = None, *, top: int = TOP) -> Classification:
    """Classify one image file.

    Args:
        path: an image of any common format.
        model: which; our default one if None. Loading takes about a second: keep it.
        top: how many classes to tell.

    Raises:
        PermanentError: the file is no image that can be read.
    """
    model = model or open_model()
    preprocess = model.bundle.card.preprocess
    picture = decode(path.read_bytes(), path.name, least_sides(preprocess))
    [scores] = model.score([frame(picture.pixels, preprocess)])
    bundle = model.bundle
    return Classification(best(scores, bundle.labels, top), bundle.card.name, bundle.version)


def best(scores: Scores, labels: tuple[Label, ...], top: int) -> tuple[Guess, ...]:
    """The most probable classes, best first; of equal ones that with the lower index."""
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(
        Guess(int(i), labels[i].wordnet_id, labels[i].name, round(float(scores[i]), 6))
        for i in order
    )
