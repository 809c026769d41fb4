"""``--param KEY=VALUE``, which several commands take."""

from __future__ import annotations

import json
from typing import Any

import typer


def parameter(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``, where the value is JSON or else text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--param")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
