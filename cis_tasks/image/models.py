"""Models that are ready to look at images: ours by name, or anybody's by its card."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cis_tasks.errors import PermanentError, SettingsError
from cis_tasks.image import efficientnet
from cis_tasks.image.card import MAX_CARD_BYTES, Card, read_card, require_sha256
from cis_tasks.image.frame import Pixels
from cis_tasks.image.labels import Label, read_labels

RuntimeName = Literal["auto", "torch", "onnx"]
Scores = NDArray[np.float32]
MAX_LABEL_BYTES = 16 << 20


class Runtime(Protocol):
    """What runs a model's file on one device.

    Attributes:
        name: ``torch`` or ``onnx``.
        device: ``cpu`` or ``cuda:N``.
        batches: numbers of images that it takes at once, ascending; others are filled up.
    """

    name: str
    device: str
    batches: Sequence[int]

    def run(self, images: list[Pixels]) -> Scores:
        """The model's output, images × classes; at most the largest of ``batches`` images."""


@dataclass(frozen=True)
class Bundle:
    """A classifier's files in memory, checked.

    Attributes:
        card: its card.
        labels: of its classes, in the order of their index.
        file: the bytes of ``card.file``; None for a model that ships with us.
    """

    card: Card
    labels: tuple[Label, ...]
    file: bytes | None = None

    @property
    def version(self) -> str:
        """The card's version, or else the beginning of the file's checksum."""
        return self.card.version or self.card.sha256[:12]


@dataclass(frozen=True)
class Model:
    """A classifier, loaded on a device.

    Attributes:
        bundle: what it is.
        runtime: what runs it.
    """

    bundle: Bundle
    runtime: Runtime

    def score(self, images: Sequence[Pixels]) -> Scores:
        """The probability of each class for each image.

        Args:
            images: framed for this model, see `cis_tasks.image.frame`.

        Returns:
            Images × classes; every row adds up to 1.

        Raises:
            PermanentError: the model does not give one number for each of its labels.
        """
        largest = self.runtime.batches[-1]
        parts = [
            self.runtime.run(list(images[start : start + largest]))
            for start in range(0, len(images), largest)
        ]
        output = np.concatenate(parts).astype(np.float32, copy=False)
        self._require_shape(output, len(images))
        if self.bundle.card.output == "probabilities":
            return output
        grown = np.exp(output - output.max(axis=1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=1, keepdims=True), np.float32)

    def _require_shape(self, output: Scores, images: int) -> None:
        classes = len(self.bundle.labels)
        if output.shape != (images, classes) or not np.isfinite(output).all():
            raise PermanentError(
                "model_output_unfit",
                f"The model {self.bundle.card.name} gave {output.shape[1:]} numbers an image, or "
                f"some that are none, where its card has {classes} labels.",
                "Check the model's output and its list of labels.",
            )


def open_model(
    model: str | Path = efficientnet.DEFAULT,
    *,
    runtime: RuntimeName = "auto",
    device: str = "auto",
    cache: Path | None = None,
) -> Model:
    """Load a model.

    Args:
        model: the name of one that ships with us, or the path of a card.
        runtime: ``torch``, ``onnx``, or ``auto``: torch on CUDA, ONNX on a CPU.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where there is one.
        cache: folder for what is made once per machine; ``default_cache()`` if None.

    Raises:
        PermanentError: the card or a file that it names is not usable.
        SettingsError: the model is unknown here, or a package for it is missing.
    """
    bundle = built_in(str(model)) if str(model) in efficientnet.SIDES else read_bundle(Path(model))
    return load(bundle, runtime=runtime, device=device, cache=cache)


@functools.cache
def built_in(name: str) -> Bundle:
    """The bundle of a model that ships with us.

    Raises:
        SettingsError: its weights are not installed.
    """
    card = efficientnet.card(efficientnet.find_weights(name))
    return Bundle(card, read_labels(card.labels))


def read_bundle(path: Path) -> Bundle:
    """A bundle from a card and the files beside it.

    Raises:
        PermanentError: ``model_card_invalid``, ``model_missing`` or ``model_changed``.
    """

    def read(name: str, limit: int | None = None) -> bytes:
        try:
            with (path.parent / name).open("rb") as file:
                return file.read(-1 if limit is None else limit)
        except OSError as error:
            raise PermanentError(
                "model_missing", f"{path.parent / name} cannot be read: {error.strerror}.", ""
            ) from error

    card = read_card(read(path.name, MAX_CARD_BYTES), path.name)
    labels = read(card.labels, MAX_LABEL_BYTES) if isinstance(card.labels, str) else b""
    return bundle(card, read(card.file), labels)


def bundle(card: Card, file: bytes, labels: bytes) -> Bundle:
    """A bundle from its parts.

    Args:
        card: its card.
        file: content of ``card.file``.
        labels: content of the file of labels, where the card names one.

    Raises:
        PermanentError: the file is another one, or the labels are no text.
    """
    require_sha256(file, card.sha256, card.file)
    if not isinstance(card.labels, str):
        return Bundle(card, read_labels(card.labels), file)
    try:
        lines = labels.decode().splitlines()
    except UnicodeDecodeError as error:
        raise PermanentError(
            "model_labels_unreadable", f"{card.labels} is not UTF-8 text.", "Write it as UTF-8."
        ) from error
    return Bundle(card, read_labels(lines), file)


def load(
    bundle: Bundle,
    *,
    runtime: RuntimeName = "auto",
    device: str = "auto",
    cache: Path | None = None,
) -> Model:
    """Load a bundle onto a device.

    Raises:
        PermanentError: its file is no model of its kind, or does not run on this runtime.
        SettingsError: there is no such device.
    """
    place = choose_device(device)
    kind = _choose_runtime(bundle, runtime, place)
    if kind == "onnx":
        return Model(bundle, _onnx(bundle, cache or default_cache()))
    from cis_tasks.image.torch_runtime import torch_runtime  # noqa: PLC0415

    return Model(bundle, torch_runtime(bundle, place))


def devices(wanted: str) -> list[str]:
    """The devices that a setting means: ``auto`` and ``cuda`` are all there are.

    Raises:
        SettingsError: there is no such device.
    """
    if wanted == "cpu":
        return ["cpu"]
    count = _cuda_devices()
    if wanted.startswith("cuda:") and int(wanted[5:]) < count:
        return [wanted]
    if wanted in {"auto", "cuda"} and count:
        return [f"cuda:{index}" for index in range(count)]
    if wanted == "auto":
        return ["cpu"]
    raise SettingsError(f"There is no device {wanted!r} here: torch sees {count} CUDA devices.")


def choose_device(wanted: str) -> str:
    """The first of `devices`."""
    return devices(wanted)[0]


def default_cache() -> Path:
    """Folder for what is made once per machine and user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "cis-tasks")


def _cuda_devices() -> int:
    if not os.path.exists("/dev/nvidiactl") and not os.path.exists("/dev/dxg"):  # noqa: PTH110
        return 0  # without a driver, torch need not be loaded to know
    import torch  # noqa: PLC0415

    return torch.cuda.device_count()


def _choose_runtime(bundle: Bundle, wanted: RuntimeName, device: str) -> str:
    own = bundle.file is None
    kind = "torch" if own or bundle.card.file.endswith(".pt2") else "onnx"
    if wanted == "auto":
        wanted = "onnx" if kind == "onnx" or (own and device == "cpu") else "torch"
    if not own and wanted != kind:
        raise PermanentError(
            "model_runtime_unfit",
            f"{bundle.card.file} runs with {kind}, not with {wanted}.",
            "Leave CIS_IMAGE_RUNTIME at auto, or bring the model in the other form.",
        )
    return wanted


def _onnx(bundle: Bundle, cache: Path) -> Runtime:
    from cis_tasks.image.onnx_runtime import OnnxRuntime  # noqa: PLC0415

    if bundle.file is not None:
        return OnnxRuntime(bundle.file, bundle.card)
    from cis_tasks.image.onnx_export import exported  # noqa: PLC0415

    weights = efficientnet.find_weights(bundle.card.name)
    side = bundle.card.preprocess.size[0]
    source = f"{weights.name} {weights.sha256}"
    return OnnxRuntime(
        exported(lambda: efficientnet.module(weights), source, side, cache), bundle.card
    )
