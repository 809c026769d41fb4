"""A photograph in, its ImageNet classes out.

>>> from cis_tasks.image import classify
>>> classify(Path("cat.jpg")).best.label
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cis_tasks.image.card import Card as Card
    from cis_tasks.image.classification import Classification as Classification
    from cis_tasks.image.classification import classify as classify
    from cis_tasks.image.models import open_model as open_model

__all__ = ["Card", "Classification", "classify", "open_model"]

_HOMES = {
    "Card": "card",
    "Classification": "classification",
    "classify": "classification",
    "open_model": "models",
}


def __getattr__(name: str) -> Any:
    """Load torch and onnxruntime only when something of theirs is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
