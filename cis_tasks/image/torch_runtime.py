"""Models run by torch: on CUDA as recorded graphs over a few sizes of batch, on a CPU as they are.

On CUDA the pixels travel as bytes, and are normalised there; the network runs in half precision
with channels last. Each size of batch is recorded once as a CUDA graph: launching a hundred small
kernels costs more than running them.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cis_tasks.errors import PermanentError
from cis_tasks.image import efficientnet
from cis_tasks.image.card import Preprocess
from cis_tasks.image.exported_program import read_program
from cis_tasks.image.frame import Pixels
from cis_tasks.image.models import Bundle, Scores

BUCKETS = (1, 4, 8, 16, 32)
WARM_UPS = 3  # before a graph is recorded; cuDNN chooses its algorithms in them

Network = Callable[[torch.Tensor], torch.Tensor]


class Normalised(torch.nn.Module):
    """A network whose input is bytes: batch × height × width × RGB."""

    _scale: torch.Tensor
    _shift: torch.Tensor

    def __init__(self, network: Network, preprocess: Preprocess, dtype: torch.dtype) -> None:
        super().__init__()
        self._network = network
        self._dtype = dtype
        self._flip = preprocess.channels == "BGR"
        self._nchw = preprocess.layout == "NCHW"
        mean, std = (torch.tensor(values) for values in (preprocess.mean, preprocess.std))
        self.register_buffer("_scale", 1 / (255 * std))
        self.register_buffer("_shift", mean / std)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The network's output, float32."""
        colours = pixels.flip(-1) if self._flip else pixels
        values = (colours * self._scale - self._shift).to(self._dtype)
        if self._nchw:  # a view: the bytes already lie channels last
            values = values.permute(0, 3, 1, 2)
        return self._network(values).float()


@dataclass(frozen=True)
class Recorded:
    """A CUDA graph for one size of batch, with the memory that it reads and writes.

    Attributes:
        graph: replays the network.
        staging: page-locked memory that pixels are put into.
        pixels: where the graph reads them.
        output: where it writes.
    """

    graph: torch.cuda.CUDAGraph
    staging: torch.Tensor
    pixels: torch.Tensor
    output: torch.Tensor


class TorchRuntime:
    """A network on one device.

    Attributes:
        name: ``torch``.
        device: ``cpu`` or ``cuda:N``.
        batches: numbers of images that it takes at once.
    """

    name = "torch"

    def __init__(
        self, network: Normalised, device: str, size: tuple[int, int], batches: Sequence[int]
    ) -> None:
        self.device = device
        self.batches = batches
        self._network = network
        self._size = size
        self._recorded: dict[int, Recorded] = {}
        self._stream = torch.cuda.Stream(device) if device != "cpu" else None  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def run(self, images: list[Pixels]) -> Scores:
        """See `cis_tasks.image.models.Runtime`; on CUDA for one thread at a time.

        Raises:
            PermanentError: the network does not run on what its card says.
        """
        size = next(size for size in self.batches if size >= len(images))
        try:
            output = (
                self._on_cpu(images, size) if self._stream is None else self._on_cuda(images, size)
            )
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if "CUDA" in str(error):
                raise  # the device's fault, not the model's: the job is tried again elsewhere
            raise PermanentError(
                "model_failed",
                f"The model did not run on {size} images of {self._size}: {error}.",
                "Check the size and the layout in its card.",
            ) from error
        return np.asarray(output.numpy()[: len(images)], np.float32)

    def _on_cpu(self, images: list[Pixels], size: int) -> torch.Tensor:
        pixels = torch.zeros((size, *self._size, 3), dtype=torch.uint8)
        _fill(pixels, images)
        output: torch.Tensor = self._network(pixels)
        return output

    def _on_cuda(self, images: list[Pixels], size: int) -> torch.Tensor:
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            if size not in self._recorded:
                self._recorded[size] = self._record(size)
            recorded = self._recorded[size]
            _fill(recorded.staging, images)
            recorded.pixels.copy_(recorded.staging, non_blocking=True)
            recorded.graph.replay()
            return recorded.output.cpu()  # waits for the stream

    def _record(self, size: int) -> Recorded:
        staging = torch.zeros((size, *self._size, 3), dtype=torch.uint8, pin_memory=True)
        pixels = staging.to(self.device)
        for _ in range(WARM_UPS):
            self._network(pixels)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            output = self._network(pixels)
        return Recorded(graph, staging, pixels, output)


def torch_runtime(bundle: Bundle, device: str) -> TorchRuntime:
    """A bundle's network on a device.

    Raises:
        PermanentError: its file is no model that can be loaded.
    """
    preprocess = bundle.card.preprocess
    dtype = torch.float32
    batches: Sequence[int] = BUCKETS
    network: Network
    if bundle.file is None:
        module = efficientnet.module(efficientnet.find_weights(bundle.card.name))
        if device != "cpu":
            dtype = torch.float16
        network = module.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        network, fixed = _exported(bundle.file, bundle.card.file, device)
        batches = [fixed] if fixed else BUCKETS
    normalised = Normalised(network, preprocess, dtype).to(device)
    return TorchRuntime(normalised, device, preprocess.size, batches)


def _exported(file: bytes, name: str, device: str) -> tuple[Network, int | None]:
    """A ``.pt2`` file's network, and its size of batch where that is fixed."""
    program = read_program(file, name)
    inputs = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    shaped = len(inputs) == 1 and isinstance(inputs[0], torch.Tensor) and inputs[0].dim() == 4
    if not shaped:
        raise PermanentError(
            "model_input_unfit",
            f"{name} does not take one batch of images.",
            "Export it with one input of the shape that its card's preprocess makes.",
        )
    if device != "cpu":
        from torch.export.passes import move_to_device_pass  # noqa: PLC0415

        program = move_to_device_pass(program, device)
    batch = inputs[0].shape[0]
    # Guards are code in the file; the shapes that they check are those of the card anyway.
    return program.module(check_guards=False), batch if isinstance(batch, int) else None


def _fill(pixels: torch.Tensor, images: list[Pixels]) -> None:
    """Put images into the first rows; what is in the others does not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of arrays that must not be written to
        for row, image in zip(pixels, images, strict=False):
            row.copy_(torch.from_numpy(image))
