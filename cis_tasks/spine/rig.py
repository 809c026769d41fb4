"""The rig: which camera, which tags, on which sensor and segment. A small JSON file."""

from __future__ import annotations

from collections.abc import Sequence
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
from pydantic_core import ErrorDetails

from cis_tasks.errors import PermanentError

Row = tuple[float, float, float]
Matrix = tuple[Row, Row, Row]
Family = Literal["16h5", "25h9", "36h10", "36h11"]
Quantity = Literal[
    "time", "counter", "sensor", "gyr_x", "gyr_y", "gyr_z", "acc_x", "acc_y", "acc_z"
]

FAMILY_SIZES: dict[str, int] = {"16h5": 30, "25h9": 35, "36h10": 2320, "36h11": 587}
DISTORTION_LENGTHS = (0, 4, 5, 8, 12, 14)  # OpenCV's k1 k2 p1 p2 [k3 [k4 k5 k6 [s1–s4 [τx τy]]]]
SAME_SHAPE = 0.01  # share by which the two scales of a resized video may differ
WIDEST_DEG, NARROWEST_DEG = 140.0, 8.0  # fields of view that a pinhole camera can have
CENTRED = (0.2, 0.8)  # where in the image an uncropped lens has its axis


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

    @property
    def field_of_view_deg(self) -> float:
        """Horizontal field of view, without distortion."""
        return float(np.degrees(2 * np.arctan(self.width / 2 / self.matrix[0][0])))

    def resized(self, width: int, height: int) -> Camera:
        """The same camera with its image scaled, pixel centres at whole numbers."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
        return self._with(np.linalg.inv(half) @ scale @ half @ self.intrinsics, width, height)

    def turned_back(self, turns: int) -> Camera:
        """The camera of the stored picture, where this one is of the picture as shown.

        Args:
            turns: quarter turns to the left (counter-clockwise) that showing takes.
        """
        camera = self
        for _ in range(turns % 4):
            camera = camera._turned_right()
        return camera

    def _turned_right(self) -> Camera:
        (fx, _, cx), (_, fy, cy), _ = self.matrix
        matrix = np.array([[fy, 0.0, self.height - 1 - cy], [0.0, fx, cx], [0.0, 0.0, 1.0]])
        turned = self._with(matrix, self.height, self.width)
        # Vectors in the image turn with it: tangential (p2, p1), prism (s1, s3), (s2, s4), tilt.
        k = list(self.distortion)
        for x, y in ((3, 2), (8, 10), (9, 11), (12, 13)):
            if len(k) > max(x, y):
                k[x], k[y] = -k[y], k[x]
        return turned.model_copy(update={"distortion": tuple(k)})

    def _with(self, matrix: NDArray[np.float64], width: int, height: int) -> Camera:
        rows: list[list[float]] = matrix.tolist()
        data = self.model_dump() | {"matrix": rows, "width": width, "height": height}
        return Camera.model_validate(data)


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


class RecordingForm(_Part):
    """What the recording's file does not tell of itself.

    Attributes:
        columns: quantity → name of its column, for files whose names are not understood:
            ``time``, ``counter``, ``sensor``, ``gyr_x`` … ``gyr_z``, ``acc_x`` … ``acc_z``.
            ``{sensor}`` in the names stands for the sensor's id where each has columns of its own.
        gyr_unit: of the angular rates.
        acc_unit: of the specific force.
        time_unit: of the times.
        rate_hz: of files that only count their readings.
    """

    columns: dict[Quantity, Annotated[str, Field(min_length=1)]] = {}
    gyr_unit: Literal["rad/s", "deg/s", "mdeg/s"] | None = None
    acc_unit: Literal["m/s²", "g", "mg"] | None = None
    time_unit: Literal["s", "ms", "µs", "ns"] | None = None
    rate_hz: Annotated[float, Field(gt=0, le=10_000)] | None = None

    @field_validator("acc_unit", "time_unit", mode="before")
    @classmethod
    def _as_typed(cls, unit: object) -> object:
        return {"m/s2": "m/s²", "m/s^2": "m/s²", "us": "µs", "μs": "µs"}.get(str(unit), unit)

    @model_validator(mode="after")
    def _columns_suffice(self) -> Self:
        if not self.columns:
            return self
        lacking = [name for name in ("gyr_x", "gyr_y", "gyr_z") if name not in self.columns]
        if not {"time", "counter"} & self.columns.keys():
            lacking.append("time")
        if lacking:
            raise ValueError(f"columns: {', '.join(lacking)} must be named too")
        return self


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
        flexion_s: first and last video time of bending forwards and back; its axis is then the
            segments' axis to the right.
        recording: what the recording's file does not tell of itself.
        spacing_m: distances along the back between neighbouring sensors, from the lowest; left
            out, those of a mean adult spine are taken for the curve.
    """

    camera: Camera
    tag_family: Family = "36h11"
    tag_size_m: Annotated[float, Field(gt=0, le=2)]
    tags: Annotated[dict[int, Tag], Field(min_length=1)]
    segment_order: tuple[str, ...] = ()
    neutral_s: tuple[float, float] | None = None
    flexion_s: tuple[float, float] | None = None
    recording: RecordingForm | None = None
    spacing_m: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()

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
        for what in ("neutral_s", "flexion_s"):
            span = getattr(self, what)
            if span and span[0] >= span[1]:
                raise ValueError(f"{what}: must be [start, end] with start < end")
        if self.spacing_m and len(self.spacing_m) != len(self.tags) - 1:
            raise ValueError(f"spacing_m: must have {len(self.tags) - 1} distances")
        return self

    @property
    def ordered_tags(self) -> tuple[tuple[int, Tag], ...]:
        """Tag ids and tags from the sacrum upwards."""
        by_segment = {tag.segment: (number, tag) for number, tag in self.tags.items()}
        return tuple(by_segment[segment] for segment in self.segment_order)

    def for_video(self, file: str, width: int, height: int, turns: int = 0) -> Rig:
        """The rig with its camera as a video's stored pictures need it.

        A camera that was calibrated at another resolution of the same shape is scaled; one that
        was calibrated on the picture as players show it is turned back.

        Args:
            file: the video's name, for the error.
            width: of the stored picture, pixels.
            height: of the stored picture, pixels.
            turns: quarter turns to the left that showing takes.

        Raises:
            PermanentError: ``video_size`` where the shapes differ.
        """
        camera = self.camera
        if turns % 2 and not _alike(camera, width, height):
            camera = camera.turned_back(turns)
        if not _alike(camera, width, height):
            raise _other_shape(file, width, height, self.camera)
        if (camera.width, camera.height) != (width, height):
            camera = camera.resized(width, height)
        return self if camera is self.camera else self.model_copy(update={"camera": camera})

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
        rig = Rig.model_validate_json(text)
    except ValidationError as error:
        raise _rig_error(path.name, error) from error
    require_plausible(rig.camera, path.name)
    return rig


def require_plausible(camera: Camera, name: str) -> None:
    """The camera matrix can be that of a real camera, in this image.

    Raises:
        PermanentError: ``intrinsics_implausible``.
    """
    (fx, _, cx), (_, fy, cy), _ = camera.matrix
    view = camera.field_of_view_deg
    wrong = ""
    if not NARROWEST_DEG <= view <= WIDEST_DEG:
        wrong = (
            f"a focal length of {fx:g} px in {camera.width} px is a field of view of {view:.0f}°"
        )
    elif not 0.8 < fx / fy < 1.25:
        wrong = f"focal lengths of {fx:g} and {fy:g} px make pixels that are far from square"
    elif not all(
        CENTRED[0] < at / size < CENTRED[1]
        for at, size in ((cx, camera.width), (cy, camera.height))
    ):
        wrong = (
            f"the centre ({cx:g}, {cy:g}) is far from the middle of {camera.width}×{camera.height}"
        )
    if wrong:
        raise PermanentError(
            "intrinsics_implausible",
            f"The camera of the rig {name} is implausible: {wrong}.",
            "Give matrix, width and height of the same resolution, in pixels; "
            "`cis rig calibrate VIDEO` finds them from a video of a printed board.",
        )


def _alike(camera: Camera, width: int, height: int) -> bool:
    return abs(width / camera.width * camera.height / height - 1) <= SAME_SHAPE


def _other_shape(file: str, width: int, height: int, camera: Camera) -> PermanentError:
    turned = (width > height) != (camera.width > camera.height)
    return PermanentError(
        "video_size",
        f"{file} has {width}×{height} pixels, the rig's camera {camera.width}×{camera.height}.",
        "The video is turned by 90°: use the rig of that orientation."
        if turned
        else "Film in the shape that the camera was calibrated in; a picture that is cut off at "
        "its sides cannot be scaled back.",
    )


def _lacks_matrix(problems: Sequence[ErrorDetails]) -> bool:
    """Whether all that is wrong is the camera, and that there is none."""
    absent = [
        problem["loc"] in {("camera",), ("camera", "matrix")}
        and (problem["type"] == "missing" or problem["input"] is None)
        for problem in problems
    ]
    return any(absent) and all(
        problem["loc"][0] == "camera" for problem in problems if problem["loc"]
    )


def _rig_error(name: str, error: ValidationError) -> PermanentError:
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        return PermanentError(
            "rig_unreadable",
            f"The rig {name} is not valid JSON: {problems[0]['msg']}.",
            "Check its commas, quotes and brackets, and that it is complete.",
        )
    if _lacks_matrix(problems):
        return PermanentError(
            "intrinsics_missing",
            f"The rig {name} does not say what camera it was: there is no camera matrix.",
            "`cis rig calibrate VIDEO --out RIG` finds it from a video of a printed board. "
            "Without it, angles would be wrong in a way that no check can see.",
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
