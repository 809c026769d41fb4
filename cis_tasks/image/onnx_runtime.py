"""Models run by onnxruntime on the CPU, with half of what torch needs there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime

from cis_tasks.errors import PermanentError
from cis_tasks.image.card import Card
from cis_tasks.image.frame import Pixels, normalised
from cis_tasks.image.models import Scores

MAX_BATCH = 32


class OnnxRuntime:
    """An ONNX file; any number of threads may call it, each on one core.

    Attributes:
        name: ``onnx``.
        device: ``cpu``.
        batches: numbers of images that it takes at once.
    """

    name = "onnx"
    device = "cpu"

    def __init__(self, file: bytes, card: Card) -> None:
        """Load it.

        Raises:
            PermanentError: it is no ONNX model with one input of images and one output.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the worker's threads are the parallelism
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no root of their own
            raise PermanentError(
                "model_unreadable", f"{card.file} is no ONNX model: {error}.", "Export it anew."
            ) from error
        [*inputs] = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise PermanentError(
                "model_input_unfit",
                f"{card.file} does not take one batch of images: it takes "
                f"{[(one.name, one.type, one.shape) for one in inputs]}.",
                "It has to take float32 of the shape that its card's preprocess makes.",
            )
        self._input = inputs[0].name
        self._output = self._session.get_outputs()[0].name
        self._preprocess = card.preprocess
        fixed = inputs[0].shape[0]
        self.batches: Sequence[int] = (
            [fixed] if isinstance(fixed, int) else list(range(1, MAX_BATCH + 1))
        )
        self._file = card.file

    def run(self, images: list[Pixels]) -> Scores:
        """See `cis_tasks.image.models.Runtime`.

        Raises:
            PermanentError: the model does not run on what its card says.
        """
        size = next(size for size in self.batches if size >= len(images))
        batch = normalised(images, self._preprocess)
        if size > len(images):
            empty = np.zeros((size - len(images), *batch.shape[1:]), np.float32)
            batch = np.concatenate([batch, empty])
        try:
            [output] = self._session.run([self._output], {self._input: batch})
        except Exception as error:
            raise PermanentError(
                "model_failed",
                f"{self._file} did not run on a batch of {batch.shape}: {error}.",
                "Check the size and the layout in its card.",
            ) from error
        return np.asarray(output, np.float32)[: len(images)]
