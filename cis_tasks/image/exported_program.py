"""Models from ``torch.export`` files, of which nothing is run that could be anything but a model.

``torch.export.load`` unpickles what does not load without, and evaluates text that the file holds.
So the archive is looked through first, by the reader that then loads it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cis_tasks.errors import PermanentError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# Sizes are written as expressions, which torch hands to sympy, which evaluates them.
SIZE_WORDS = frozenset(
    [
        *("Symbol", "positive", "integer", "nonnegative", "True", "False", "oo", "int_oo"),
        *("Integer", "Rational", "Add", "Mul", "Pow", "Mod", "PythonMod", "Max", "Min"),
        *("FloorDiv", "CeilDiv", "CleanDiv", "IntTrueDiv", "ModularIndexing"),
        *("FloorToInt", "TruncToInt", "RoundToInt"),
    ]
)
SIZE_SYMBOL = re.compile(r"[suz]\d+")
WORD = re.compile(r"[^\W\d]\w*")
SIZE_CHARACTERS = re.compile(r"[\w\s()+\-*/,='<>]*", re.ASCII)


def read_program(data: bytes, name: str) -> ExportedProgram:
    """The one program in a ``.pt2`` file.

    Args:
        data: the file.
        name: what to call it in errors.

    Raises:
        PermanentError: ``model_unreadable`` or ``model_unsafe``.
    """
    from torch.export.pt2_archive._package import load_pt2  # noqa: PLC0415

    _require_harmless(data, name)
    try:
        found = load_pt2(io.BytesIO(data)).exported_programs
        program: ExportedProgram = next(iter(found.values()))
    except Exception as error:  # whatever a damaged file makes of it
        raise _unreadable(name, error) from error
    return program


def _require_harmless(data: bytes, name: str) -> None:
    import torch  # noqa: PLC0415

    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(data))  # noqa: SLF001
        records = reader.get_all_records()
    except RuntimeError as error:
        raise _unreadable(name, error) from error
    for record in records:
        if record.startswith("data/aotinductor/"):
            raise _unsafe(name, "it holds compiled code")
        if record.startswith(("data/weights/", "data/constants/")):
            if record.endswith(".json"):
                _require_plain_tensors(reader.get_record(record), name)
            elif record.endswith(".pt"):
                raise _unsafe(name, f"{record} is a pickle")
        elif record.startswith("data/sample_inputs/"):
            _require_tensors_alone(reader.get_record(record), name)
        elif record.startswith("models/"):
            _require_sizes(reader.get_record(record), name)


def _require_plain_tensors(config: bytes, name: str) -> None:
    for payload in json.loads(config)["config"].values():
        path = str(payload["path_name"])
        if payload["use_pickle"] or path.startswith(("custom_obj", "opaque_obj")):
            raise _unsafe(name, f"{path} is a pickle")


def _require_tensors_alone(example: bytes, name: str) -> None:
    import torch  # noqa: PLC0415

    if not example:
        return
    try:
        torch.load(io.BytesIO(example), weights_only=True)
    except Exception as error:  # torch would now load it as a pickle of anything
        raise _unsafe(name, "its example inputs are more than tensors") from error


def _require_sizes(model: bytes, name: str) -> None:
    for text in _sizes(json.loads(model)):
        words = WORD.findall(text)
        known = all(word in SIZE_WORDS or SIZE_SYMBOL.fullmatch(word) for word in words)
        if not known or not SIZE_CHARACTERS.fullmatch(text):
            raise _unsafe(name, f"{text[:60]!r} is not a size")


def _sizes(node: Any) -> Iterator[str]:
    """All expressions for sizes in a serialised graph."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr_str":
                yield str(value)
            else:
                yield from _sizes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _sizes(value)


def _unsafe(name: str, what: str) -> PermanentError:
    return PermanentError(
        "model_unsafe",
        f"{name} was not loaded, because {what}.",
        "Save it with torch.export.save(torch.export.export(model.eval(), (images,)), ...).",
    )


def _unreadable(name: str, error: Exception) -> PermanentError:
    return PermanentError(
        "model_unreadable",
        f"{name} is not a torch.export file that this torch reads: {error}.",
        "Save it with torch.export.save, with the version of torch that the worker has.",
    )
