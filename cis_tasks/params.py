"""A job's parameters, read into the options of its pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from cis_tasks.errors import PermanentError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def read_params(options: type[Options], params: Mapping[str, Any], pipeline: str) -> Options:
    """Options from a job's parameters.

    Args:
        options: a dataclass whose fields are the parameters, and which checks their values.
        params: names and values, as they came with the job.
        pipeline: its name, for the message.

    Raises:
        PermanentError: ``params_unknown``, or what ``options`` raises of a value.
    """
    known = {field.name for field in fields(options)}
    if unknown := sorted(set(params) - known):
        raise PermanentError(
            "params_unknown",
            f"The {pipeline} pipeline has no parameter {', '.join(unknown)}.",
            f"It knows {', '.join(sorted(known))}.",
        )
    return options(**params)
