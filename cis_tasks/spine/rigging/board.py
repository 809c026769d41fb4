"""The camera from a video of a printed ChArUco board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Progress, no_progress
from cis_tasks.spine.rig import Camera, require_plausible
from cis_tasks.spine.video import Video

DICTIONARY = cv2.aruco.DICT_5X5_100
LOOK_S = 0.15  # between frames that are looked at; a hand moves little in between
LEAST_CORNERS = 8  # of a view
LEAST_MOVE = 0.03  # of the image's width, from every view that was kept
LEAST_VIEWS = 8
MOST_VIEWS = 60  # more cost time and tell nothing new
OUTLIER = 2.5  # times the median error of a view
MOST_FOCAL_SD = 0.005  # share; 2 % of focal length cost a tenth of a degree
# Straight on, a longer lens from farther away gives the same picture: the fit may then settle
# anywhere, and be sure of it.
LEAST_TILT_DEG, LEAST_TILTED = 8.0, 5
GOOD_PX = 1.0
GOOD_COVER = 0.5  # share of the image in which the board was seen

HOW_TO_FILM = (
    "Lay the board flat, film it for 20–30 s from different sides, tilted by 20–40°, near enough "
    "to fill the picture, also at its corners; with the zoom, focus and resolution used later."
)


@dataclass(frozen=True)
class Board:
    """The printed board.

    Attributes:
        columns: squares across.
        rows: squares down.
        square_m: side of a square, metres.
        marker_m: side of the marker in a white square, metres.
    """

    columns: int = 5
    rows: int = 7
    square_m: float = 0.035
    marker_m: float = 0.026

    def __post_init__(self) -> None:
        if min(self.columns, self.rows) < 3 or not 0 < self.marker_m < self.square_m < 1:
            raise PermanentError(
                "board_invalid",
                f"There is no board of {self.columns}×{self.rows} squares of {self.square_m:g} m "
                f"with markers of {self.marker_m:g} m.",
                "Give at least 3×3 squares, sizes in metres, markers smaller than squares.",
            )

    @property
    def pattern(self) -> cv2.aruco.CharucoBoard:
        """The board as OpenCV knows it."""
        codes = cv2.aruco.getPredefinedDictionary(DICTIONARY)
        size = (self.columns, self.rows)
        return cv2.aruco.CharucoBoard(size, self.square_m, self.marker_m, codes)


@dataclass(frozen=True)
class CameraFit:
    """A calibrated camera.

    Attributes:
        camera: for the video's stored pictures.
        error_px: RMS distance of the corners from where the camera puts them.
        focal_sd: standard deviation of the focal length, as a share of it.
        views: pictures that were used.
        tilted: those of them in which the board was not straight on.
        cover: share of the image in which the board was seen.
        warnings: what could be better, in sentences.
    """

    camera: Camera
    error_px: float
    focal_sd: float
    views: int
    tilted: int
    cover: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _View:
    """The board in one picture: (N, 2) pixels and (N, 3) places on the board, metres."""

    pixels: NDArray[np.float32]
    places: NDArray[np.float32]

    @property
    def summary(self) -> NDArray[np.float64]:
        """Centre and extent, to tell views apart."""
        return np.concatenate([self.pixels.mean(0), self.pixels.std(0)]).astype(np.float64)


def calibrate_camera(
    video: Path, board: Board | None = None, progress: Progress = no_progress
) -> CameraFit:
    """Find a camera's matrix and distortion (k1, k2, p1, p2; Zhang, PAMI 22:1330, 2000).

    Args:
        video: of the board, filmed from many sides.
        board: as printed; `cis rig tags` prints the default one.
        progress: told the stages ``views`` and ``fit``.

    Raises:
        PermanentError: ``board_not_seen``, ``board_views_few`` or ``board_views_alike``, or the
            video cannot be read.
    """
    board = board or Board()
    with Video(video) as footage:
        views = _look(footage, board, progress)
        size = footage.width, footage.height
    progress("fit", 0.0)
    if len(views) < LEAST_VIEWS:
        raise PermanentError(
            "board_views_few",
            f"{video.name} shows the board in only {len(views)} sufficiently different views; at "
            f"least {LEAST_VIEWS} are needed.",
            HOW_TO_FILM,
        )
    return _checked(_fit(views, size), video.name)


def _look(footage: Video, board: Board, progress: Progress) -> list[_View]:
    detector = cv2.aruco.CharucoDetector(board.pattern)
    places = np.asarray(board.pattern.getChessboardCorners(), np.float32)
    views: list[_View] = []
    seen, due = 0, -np.inf
    for frame in footage:
        if frame.time_s < due:
            continue
        due = frame.time_s + LOOK_S
        if footage.expected_s:
            progress("views", min(frame.time_s / footage.expected_s, 1.0))
        corners, numbers, _, _ = detector.detectBoard(np.ascontiguousarray(frame.grey))
        if corners is None or len(corners) < LEAST_CORNERS:
            continue
        seen += 1
        view = _View(np.reshape(corners, (-1, 2)).astype(np.float32), places[np.ravel(numbers)])
        if _is_new(view, views, footage.width):
            views.append(view)
        if len(views) > MOST_VIEWS:
            views = views[::2]
    if not seen:
        raise PermanentError(
            "board_not_seen",
            f"The board of {board.columns}×{board.rows} squares is not seen in {footage.file}.",
            f"Print it with `cis rig tags --board`, and check its numbers. {HOW_TO_FILM}",
        )
    return views


def _is_new(view: _View, views: Sequence[_View], width: int) -> bool:
    return all(
        float(np.abs(view.summary - other.summary).max()) > LEAST_MOVE * width for other in views
    )


def _fit(views: Sequence[_View], size: tuple[int, int]) -> CameraFit:
    """Fit twice, the second time without the views that are blurred or wrong."""
    fitted = _calibrate(views, size)
    errors = np.ravel(fitted[-1])
    good = [v for v, e in zip(views, errors, strict=True) if e <= OUTLIER * np.median(errors)]
    if LEAST_VIEWS <= len(good) < len(views):
        views, fitted = good, _calibrate(good, size)
    error_px, matrix, distortion, turns, _, sd, _, _ = fitted
    (fx, _, cx), (_, fy, cy), _ = matrix.tolist()
    camera = Camera(
        matrix=((fx, 0.0, cx), (0.0, fy, cy), (0.0, 0.0, 1.0)),
        distortion=tuple(np.ravel(distortion)[:4].tolist()),
        width=size[0],
        height=size[1],
    )
    everywhere = cv2.convexHull(np.concatenate([view.pixels for view in views]))
    return CameraFit(
        camera=camera,
        error_px=float(error_px),
        focal_sd=float(np.ravel(sd)[0]) / fx,
        views=len(views),
        tilted=sum(_tilt_deg(turn) > LEAST_TILT_DEG for turn in turns),
        cover=float(cv2.contourArea(everywhere)) / (size[0] * size[1]),
        warnings=(),
    )


def _tilt_deg(turn: NDArray[np.float64]) -> float:
    """Angle between the board's normal and the camera's axis, from a rotation vector."""
    R, _ = cv2.Rodrigues(turn)
    return float(np.degrees(np.arccos(min(abs(float(R[2, 2])), 1.0))))


def _calibrate(views: Sequence[_View], size: tuple[int, int]) -> tuple[Any, ...]:
    """What OpenCV returns: RMS, matrix, distortion, poses, and standard deviations."""
    return cv2.calibrateCameraExtended(
        [view.places for view in views],
        [view.pixels for view in views],
        size,
        np.eye(3),
        np.zeros(5),
        flags=cv2.CALIB_FIX_K3,
    )


def _checked(fit: CameraFit, file: str) -> CameraFit:
    alike = ""
    if fit.tilted < LEAST_TILTED:
        alike = f"the board is tilted in only {fit.tilted} of {fit.views} views"
    elif not fit.focal_sd <= MOST_FOCAL_SD:
        alike = f"they determine the focal length to {100 * fit.focal_sd:.1f} % only"
    if alike:
        raise PermanentError(
            "board_views_alike",
            f"The views of the board in {file} are too much alike: {alike}.",
            HOW_TO_FILM,
        )
    require_plausible(fit.camera, file)
    warnings = []
    if fit.error_px > GOOD_PX:
        warnings.append(
            f"The corners are off by {fit.error_px:.2f} px: is the board flat and sharp?"
        )
    if fit.cover < GOOD_COVER:
        warnings.append(
            f"The board was seen in {100 * fit.cover:.0f} % of the picture only: distortion near "
            "the edges is not known well."
        )
    return replace(fit, warnings=tuple(warnings))
