"""The rig: which camera, which tags, on which sensor and segment. A small JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from cis_tasks.errors import PermanentError

Row = tuple[float, float, float]
Matrix = tuple[Row, Row, Row]
Family = Literal["16h5", "25h9", "36h10", "36h11"]

FAMILY_SIZES: dict[str, int] = {"16h5": 30, "25h9": 35, "36h10": 2320, "36h11": 587}
DISTORTION_LENGTHS = (0, 4, 5, 8, 12, 14)  # OpenCV's k1 k2 p1 p2 [k3 [k4 k5 k6 [s1–s4 [τx τy]]]]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Camera(_Part):
    """A pinhole camera with OpenCV's distortion model.

    Attributes:
        matrix: 3×3 camera matrix, pixels.
        distortion: OpenCV's coefficients, none for an ideal lens.
        width: image width in pixels.
        height: image height in pixels.
        readout_s: rolling shutter, time from the first to the last row; a frame's time is that
            of its middle row. 0 for a global shutter.
    """

    matrix: Matrix
    distortion: tuple[float, ...] = ()
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    readout_s: Annotated[float, Field(ge=0, le=0.2)] = 0.0

    @field_validator("matrix")
    @classmethod
    def _is_camera_matrix(cls, matrix: Matrix) -> Matrix:
        (fx, skew, _), (zero, fy, _), last = matrix
        if min(fx, fy) <= 0 or (skew, zero) != (0.0, 0.0) or last != (0.0, 0.0, 1.0):
            raise ValueError("must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0")
        return matrix

    @field_validator("distortion")
    @classmethod
    def _is_known_model(cls, distortion: tuple[float, ...]) -> tuple[float, ...]:
        if len(distortion) not in DISTORTION_LENGTHS:
            raise ValueError(f"must have {DISTORTION_LENGTHS} coefficients, not {len(distortion)}")
        return distortion

    @property
    def intrinsics(self) -> NDArray[np.float64]:
        """The camera matrix as an array."""
        return np.array(self.matrix, dtype=np.float64)


class Tag(_Part):
    """What one AprilTag is fixed to.

    Attributes:
        sensor: sensor id as in the recording.
        segment: segment of the spine.
        R_tag_segment: 3×3 rotation that takes segment coordinates (ISB: x front, y up, z right) to
            tag coordinates (x right, y up as printed, z out of the paper). Left out, it follows
            from the neutral pose, else the tag counts as stuck upright on the back.
    """

    sensor: Annotated[str, Field(min_length=1)]
    segment: Annotated[str, Field(min_length=1)]
    R_tag_segment: Matrix | None = None

    @field_validator("R_tag_segment")
    @classmethod
    def _is_rotation(cls, matrix: Matrix | None) -> Matrix | None:
        if matrix is None:
            return None
        R = np.array(matrix)
        if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
            raise ValueError("must be a rotation: orthonormal rows and determinant +1")
        return matrix


class Rig(_Part):
    """One session's hardware.

    Attributes:
        camera: the camera's intrinsics.
        tag_family: AprilTag family.
        tag_size_m: side of the black square, metres.
        tags: tag id → what it is fixed to.
        segment_order: segments from the sacrum upwards; left out, the order of the tag ids.
        neutral_s: first and last video time of a pose in which all segments are aligned; gives
            the segment axes of tags that have no ``R_tag_segment``.
    """

    camera: Camera
    tag_family: Family = "36h11"
    tag_size_m: Annotated[float, Field(gt=0, le=2)]
    tags: Annotated[dict[int, Tag], Field(min_length=1)]
    segment_order: tuple[str, ...] = ()
    neutral_s: tuple[float, float] | None = None

    @model_validator(mode="before")
    @classmethod
    def _order_by_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("tags"), dict):
            tags = data["tags"].values()
            named = [tag.get("segment") for tag in tags if isinstance(tag, dict)]
            return {**data, "segment_order": data.get("segment_order") or named}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        size = FAMILY_SIZES[self.tag_family]
        if outside := [tag for tag in self.tags if not 0 <= tag < size]:
            raise ValueError(f"tags: family {self.tag_family} has ids 0–{size - 1}, not {outside}")
        for what in ("sensor", "segment"):
            names = [getattr(tag, what) for tag in self.tags.values()]
            if len(set(names)) < len(names):
                raise ValueError(f"tags: two tags name the same {what}: {sorted(names)}")
        segments = [tag.segment for tag in self.tags.values()]
        if sorted(self.segment_order) != sorted(segments):
            raise ValueError(
                f"segment_order: {list(self.segment_order)} must name each tag's segment once: "
                f"{segments}"
            )
        if self.neutral_s and self.neutral_s[0] >= self.neutral_s[1]:
            raise ValueError("neutral_s: must be [start, end] with start < end")
        return self

    @property
    def ordered_tags(self) -> tuple[tuple[int, Tag], ...]:
        """Tag ids and tags from the sacrum upwards."""
        by_segment = {tag.segment: (number, tag) for number, tag in self.tags.items()}
        return tuple(by_segment[segment] for segment in self.segment_order)

    def to_json(self) -> str:
        """The JSON text that ``read_rig`` reads."""
        return self.model_dump_json(indent=1, exclude_none=True)


def read_rig(path: Path) -> Rig:
    """Read a rig file.

    Raises:
        PermanentError: ``rig_unreadable`` where it is no JSON text, ``rig_invalid`` where a value
            is missing or makes no sense; the message names each.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PermanentError(
            "rig_unreadable",
            f"The rig {path.name} is not text: {error.reason} at byte {error.start}.",
            "Save it as UTF-8 JSON.",
        ) from error
    try:
        return Rig.model_validate_json(text)
    except ValidationError as error:
        raise _rig_error(path.name, error) from error


def _rig_error(name: str, error: ValidationError) -> PermanentError:
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        return PermanentError(
            "rig_unreadable",
            f"The rig {name} is not valid JSON: {problems[0]['msg']}.",
            "Check its commas, quotes and brackets, and that it is complete.",
        )
    listed = "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".lstrip(": ")
        for problem in problems[:5]
    )
    return PermanentError(
        "rig_invalid",
        f"The rig {name} makes no sense: {listed}.",
        "Correct the values named; `cis sample DIR` writes a complete rig to start from.",
    )
