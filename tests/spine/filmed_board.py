"""Printed pages, and a board of them filmed by a camera whose values are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from cis_tasks.spine.rig import Camera
from cis_tasks.spine.rigging.board import Board
from cis_tasks.spine.rigging.sheets import board_page

DOTS_PER_MM = 8
TRUE = Camera(
    matrix=((640.0, 0.0, 330.0), (0.0, 640.0, 235.0), (0.0, 0.0, 1.0)),
    distortion=(-0.12, 0.05, 0.002, -0.001),
    width=640,
    height=480,
)


def printed(figure: Figure) -> np.ndarray:
    """The page as paper would show it, ``DOTS_PER_MM``."""
    figure.set_dpi(25.4 * DOTS_PER_MM)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return cv2.cvtColor(np.asarray(canvas.buffer_rgba()), cv2.COLOR_RGBA2GRAY)


def board_picture(board: Board, rvec: np.ndarray, tvec: np.ndarray) -> np.ndarray:
    """The printed page in the world, seen through the true camera."""
    sheet = printed(board_page(board))
    grid = np.stack(np.meshgrid(np.arange(TRUE.width), np.arange(TRUE.height)), -1)
    flat = cv2.undistortPoints(
        grid.reshape(-1, 1, 2).astype(np.float64), TRUE.intrinsics, np.array(TRUE.distortion)
    )[:, 0]
    R = Rotation.from_rotvec(rvec).as_matrix()
    rays = np.concatenate([flat, np.ones((len(flat), 1))], 1) @ R
    start = R.T @ tvec
    place = rays * (start[2] / rays[:, 2])[:, None] - start
    paper = (place[:, :2] * 1000 + [105, 148.5]) * DOTS_PER_MM
    mapped = paper.reshape(TRUE.height, TRUE.width, 2).astype(np.float32)
    fine = cv2.remap(
        cv2.GaussianBlur(sheet, (0, 0), 3), mapped, None, cv2.INTER_LINEAR, borderValue=120
    )
    return cv2.GaussianBlur(fine, (0, 0), 0.6)


def film(path: Path, poses: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = TRUE.width, TRUE.height, "yuv420p"
        for k, (rvec, tvec) in enumerate(poses):
            picture = board_picture(Board(), rvec, tvec)
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def poses(count: int, tilt: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    for k in range(count):
        rvec = np.array([tilt * np.cos(k), tilt * np.sin(k), 0.3 * np.sin(2 * k)])
        yield rvec, np.array([*rng.uniform(-0.07, 0.07, 2), rng.uniform(0.33, 0.5)])
