"""A job's parameters for the image pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cis_tasks.errors import PermanentError
from cis_tasks.image.efficientnet import SIDES
from cis_tasks.params import read_params
from cis_tasks.worker.references import is_pinned

MAX_TOP = 100


@dataclass(frozen=True)
class Options:
    """How an image is classified.

    Attributes:
        model: which: the name of one that ships with us, or ``s3://bucket/card#sha256=…``; the
            worker's own if empty.
        top: how many of the most probable classes to tell.
    """

    model: str = ""
    top: int = 5

    def __post_init__(self) -> None:
        whole = isinstance(self.top, int) and not isinstance(self.top, bool)
        if not whole or not 1 <= self.top <= MAX_TOP:
            raise _invalid("top", self.top, f"Give a whole number from 1 to {MAX_TOP}.")
        known = isinstance(self.model, str) and (
            self.model in ("", *SIDES) or is_pinned(self.model)
        )
        if not known:
            raise _invalid(
                "model",
                self.model,
                f"Give one of {', '.join(SIDES)}, or s3://bucket/card.toml#sha256=<checksum of "
                "the card>: a job has to say which model it means, not only where it lies.",
            )

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Options:
        """Options from a job's parameters.

        Raises:
            PermanentError: ``params_unknown`` or ``params_invalid``.
        """
        return read_params(cls, params, "image")


def _invalid(name: str, value: object, hint: str) -> PermanentError:
    return PermanentError("params_invalid", f"The parameter {name}={value!r} makes no sense.", hint)
