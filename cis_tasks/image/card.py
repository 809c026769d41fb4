"""The model card: all that has to be known of a classifier beside its file."""

from __future__ import annotations

import hashlib
import json
import tomllib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cis_tasks.errors import PermanentError

MAX_CARD_BYTES = 4 << 20  # a hundred thousand labels fit

Triple = tuple[float, float, float]
Side = Annotated[int, Field(ge=8, le=2048)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocess(_Part):
    """How an image becomes a model's input.

    Attributes:
        size: height and width of the input, pixels; one number for a square.
        fit: ``crop`` takes the middle, ``stretch`` the whole image out of proportion.
        crop: for ``crop``: how much of the image's shorter side the middle is, 0 to 1.
        resample: ``bicubic`` or ``bilinear``, antialiased.
        mean: subtracted from each channel, whose values go from 0 to 1.
        std: what each channel is divided by after that.
        channels: order of the colours.
        layout: order of the input's axes; the batch is the first.
    """

    size: tuple[Side, Side]
    fit: Literal["crop", "stretch"] = "crop"
    crop: float = Field(0.875, gt=0, le=1)
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    channels: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    @model_validator(mode="before")
    @classmethod
    def _square(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("size"), int):
            return {**values, "size": (values["size"], values["size"])}
        return values

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError("std must be above zero")
        return self


class Card(_Part):
    """A classifier's card, written in JSON or TOML beside its file.

    Attributes:
        name: of the model, for people and manifests.
        version: of the model; else the beginning of its file's checksum.
        file: name of the model's file, ``.onnx`` or ``.pt2``, relative to the card.
        sha256: checksum of that file, hexadecimal.
        labels: a text file relative to the card, a class a line; or the list itself. A line or
            item is a name or ``wordnet_id<TAB>name``.
        output: what the model gives for each class.
        preprocess: how an image becomes its input.
    """

    name: str = Field(pattern=r"^[\w][\w .+-]{0,79}$")
    version: str = Field("", max_length=80)
    file: str = Field(pattern=r"\.(onnx|pt2)$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    labels: str | tuple[str, ...]
    output: Literal["logits", "probabilities"] = "logits"
    preprocess: Preprocess


def read_card(data: bytes, name: str) -> Card:
    """A card from its bytes.

    Args:
        data: JSON, or TOML where ``name`` ends in ``.toml``.
        name: what to call it in errors.

    Raises:
        PermanentError: ``model_card_invalid``.
    """
    try:
        text = data.decode()
        loaded = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
        return Card.model_validate(loaded)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'card'}: {one['msg']}" for one in error.errors()
        )
        raise _invalid(name, problems) from error
    except ValueError as error:  # neither UTF-8, JSON nor TOML
        raise _invalid(name, str(error)) from error


def require_sha256(data: bytes, expected: str, name: str) -> None:
    """Check that ``data`` is what was meant.

    Raises:
        PermanentError: ``model_changed``.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise PermanentError(
            "model_changed",
            f"{name} has the SHA-256 {found}, not {expected}.",
            "Name the checksum of the file that you mean, or put that file back.",
        )


def _invalid(name: str, problem: str) -> PermanentError:
    return PermanentError(
        "model_card_invalid",
        f"{name} is no model card: {problem}.",
        "docs/image.md lists what a card holds.",
    )
