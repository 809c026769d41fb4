"""The ONNX form of a torch model, made once per machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

OPSET = 17
FORM = 1  # of what is exported; a change of `_export` makes old files stale
INPUT, OUTPUT = "images", "logits"
CHECKSUM_BYTES = 32


def exported(module: Callable[[], nn.Module], source: str, side: int, cache: Path) -> bytes:
    """The ONNX form of a model, from the cache or else made and put there.

    Of several processes that want it at once, one makes it and the others wait. A file that was
    damaged is made anew.

    Args:
        module: builds the model; called only where the cache does not have it.
        source: what the model's weights and architecture are; the same text, the same file.
        side: height and width of its input.
        cache: folder; made where it does not exist.
    """
    key = hashlib.sha256(f"{source} {side} {OPSET} {FORM}".encode()).hexdigest()
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = cache / f"{key[:32]}.onnx"
    with _lock(path.with_suffix(".lock")):
        found = _read(path)
        if found is None:
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                found = _export(module(), side, Path(folder, "model.onnx"))
            _write(path, found)
    return found


def _export(module: nn.Module, side: int, out: Path) -> bytes:
    import torch  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the newer exporter needs packages that add nothing here
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, side, side),),
            out,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return out.read_bytes()


def _read(path: Path) -> bytes | None:
    """A file of the cache; None where there is none or it is not whole."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    checksum, model = data[:CHECKSUM_BYTES], data[CHECKSUM_BYTES:]
    return model if hashlib.sha256(model).digest() == checksum else None


def _write(path: Path, model: bytes) -> None:
    """Put a file into the cache in one step: nobody ever reads half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(model).digest() + model)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Within the block, no other process or thread has this lock."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given up when the file is closed, whatever happens
        yield
