"""The video with what was found drawn on it: tags, their axes, and the angles."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cis_tasks.jobs import Progress, no_progress
from cis_tasks.spine.calibration import Calibration, Floats, SensorCalibration
from cis_tasks.spine.rig import Camera
from cis_tasks.spine.video import Video, upright, upright_corners

Picture = NDArray[np.uint8]

TICKS = 90_000  # of the written video's clock, per second
WIDEST_PX = 1920  # of the written video; players struggle beyond
QUALITY = "23"
AXES_BGR = ((60, 60, 230), (70, 180, 60), (230, 130, 40))  # x, y, z
OUTLINE_BGR, INK_BGR, GROUND_BGR = (0, 200, 255), (255, 255, 255), (40, 30, 25)
AXIS_LENGTH = 0.8  # of the tag's side
FONT = cv2.FONT_HERSHEY_SIMPLEX  # knows ASCII only
COLUMNS, PANEL = (12, 150, 235, 320, 400), 520  # of the panel, in 1280ths of the picture


def write_overlay(
    calibration: Calibration, video: Path, out: Path, progress: Progress = no_progress
) -> None:
    """Draw a calibration on its video and write it as H.264, upright, with the same times.

    Args:
        calibration: of this very video.
        video: the video.
        out: the MP4 to write.
        progress: told the stage ``overlay``.

    Raises:
        PermanentError: the video cannot be read.
    """
    places = {round(time_s, 6): k for k, time_s in enumerate(calibration.time_s)}
    origins = [_origins(sensor, calibration) for sensor in calibration.sensors]
    with Video(video) as footage, av.open(str(out), "w") as container:
        stream: VideoStream | None = None
        for time_s, picture in footage.pictures():
            k = places.get(round(time_s, 6))
            if k is None:
                continue
            stored = np.ascontiguousarray(picture.to_ndarray(format="bgr24"), np.uint8)
            image = _drawn(stored, calibration, origins, k, footage.turns)
            stream = stream or _stream(container, image, calibration.video.frame_rate_hz)
            _encode(container, stream, image, time_s - calibration.time_s[0])
            progress("overlay", (k + 1) / len(calibration.time_s))
        if stream is not None:
            container.mux(stream.encode())


def _drawn(
    image: Picture, calibration: Calibration, origins: Sequence[Floats], k: int, turns: int
) -> Picture:
    """One frame, upright."""
    camera, size_m = calibration.rig.camera, calibration.rig.tag_size_m
    scale = max(image.shape) / 1280
    height, width = image.shape[:2]
    labels = []
    for sensor, origin in zip(calibration.sensors, origins, strict=True):
        if not np.isfinite(origin[k]).all():
            continue
        corners = sensor.corners_px[k]
        cv2.polylines(
            image, [_pixels(corners)], isClosed=True, color=OUTLINE_BGR, thickness=round(2 * scale)
        )
        _draw_axes(image, camera, sensor.R_camera_tag[k], origin[k], AXIS_LENGTH * size_m)
        labels.append((sensor.segment, upright_corners(corners, (width, height), turns)))
    shown = upright(image, turns)
    for text, corners in labels:
        _write(shown, text, (corners[:, 0].max() + 6, corners[:, 1].mean()), 0.55 * scale)
    _panel(shown, _rows(calibration, k), scale)
    return _halved(shown)


def _draw_axes(image: Picture, camera: Camera, R: Floats, origin: Floats, length: float) -> None:
    ends = origin + length * R.T
    points = np.concatenate([origin[None], ends])
    seen, _ = cv2.projectPoints(
        points, np.zeros(3), np.zeros(3), camera.intrinsics, np.array(camera.distortion)
    )
    start, *tips = _pixels(np.asarray(seen[:, 0], np.float64))
    thickness = max(2, round(max(image.shape) / 500))
    for tip, colour in zip(tips, AXES_BGR, strict=True):
        cv2.arrowedLine(image, tuple(start), tuple(tip), colour, thickness, cv2.LINE_AA, 0, 0.18)


def _origins(sensor: SensorCalibration, calibration: Calibration) -> Floats:
    """(K, 3) the tag's middle in the camera, m, for its smoothed orientation; NaN where unseen.

    With the orientation known, each corner gives two linear equations for the place.
    """
    camera, half = calibration.rig.camera, calibration.rig.tag_size_m / 2
    square = np.array([[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]])
    origins = np.full((len(calibration.time_s), 3), np.nan)
    seen = np.flatnonzero(sensor.seen & np.isfinite(sensor.R_camera_tag).all((1, 2)))
    if not len(seen):
        return origins
    flat = cv2.undistortPoints(
        sensor.corners_px[seen].reshape(-1, 1, 2), camera.intrinsics, np.array(camera.distortion)
    )
    uv = flat.reshape(-1, 4, 2)
    turned = square @ sensor.R_camera_tag[seen].mT
    A = np.zeros((len(seen), 4, 2, 3))
    A[..., 0, 0] = A[..., 1, 1] = 1.0
    A[..., 2] = -uv
    b = uv * turned[..., 2:] - turned[..., :2]
    M, c = A.reshape(len(seen), 8, 3), b.reshape(len(seen), 8, 1)
    origins[seen] = np.linalg.solve(M.mT @ M, M.mT @ c)[..., 0]
    return origins


def _rows(calibration: Calibration, k: int) -> list[tuple[str, ...]]:
    """What the panel says at frame ``k``, the topmost pair first, in columns."""
    told: list[tuple[str, ...]] = [
        (f"{calibration.time_s[k]:.2f} s", "flexion", "lateral", "axial", "deg")
    ]
    for series in reversed(calibration.angles):
        known = [f"{angle:.1f}" if np.isfinite(angle) else "-" for angle in series.cardan_deg[k]]
        told.append((series.name, *known, "" if series.visible[k] else "by gyroscope"))
    return told


def _panel(image: Picture, rows: Sequence[tuple[str, ...]], scale: float) -> None:
    step, right = round(26 * scale), min(round(PANEL * scale), image.shape[1])
    part = image[: step * len(rows) + step // 2, :right]
    part[:] = (0.3 * part + 0.7 * np.array(GROUND_BGR)).astype(np.uint8)
    for row, cells in enumerate(rows):
        for cell, left in zip(cells, COLUMNS, strict=True):
            _write(image, cell, (left * scale, step * (row + 0.8)), 0.5 * scale)


def _write(image: Picture, text: str, place: tuple[float, float], size: float) -> None:
    at = round(place[0]), round(place[1])
    text = text.encode("ascii", "replace").decode()
    for colour, thickness in ((GROUND_BGR, 4), (INK_BGR, 1)):
        cv2.putText(
            image, text, at, FONT, size, colour, max(1, round(thickness * size * 2)), cv2.LINE_AA
        )


def _pixels(points: Floats) -> NDArray[np.int32]:
    return np.rint(points).astype(np.int32)


def _halved(image: Picture) -> Picture:
    """The picture at a size that players take: not too wide, even in both directions."""
    scale = min(1.0, WIDEST_PX / max(image.shape))
    height, width = (2 * round(side * scale / 2) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _stream(container: OutputContainer, image: Picture, rate_hz: float) -> VideoStream:
    rate = Fraction(max(rate_hz, 1.0)).limit_denominator(1001)
    if "libx264" in av.codecs_available:
        options = {"crf": QUALITY, "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=rate, options=options)
    else:
        stream = container.add_stream("mpeg4", rate=rate)
    stream.height, stream.width = image.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
    return stream


def _encode(container: OutputContainer, stream: VideoStream, image: Picture, time_s: float) -> None:
    frame = VideoFrame.from_ndarray(image, format="bgr24")
    frame.pts, frame.time_base = round(time_s * TICKS), Fraction(1, TICKS)
    container.mux(stream.encode(frame))
