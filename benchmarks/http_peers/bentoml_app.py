"""BentoML with two workers."""

from __future__ import annotations

from pathlib import Path

import bentoml
from classifier import Classifier


@bentoml.service(workers=2, traffic={"timeout": 600}, metrics={"enabled": False})
class Service:
    """The model as a service."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api
    def classify(self, myfile: Path) -> str:
        """The label of an image."""
        return self.classifier(myfile.read_bytes())
