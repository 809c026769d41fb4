"""What a camera behind the made-up person films: a back with straps, and a tag on every sensor."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from cis_tasks.jobs import Progress
from cis_tasks.spine.synthetic.motion import Array, SpineMotion
from cis_tasks.spine.synthetic.sensors import Mount

Image = NDArray[np.uint8]
Grey = NDArray[np.float32]

TAG_SIZE_M = 0.045  # black square; with the white margin the tags of L1 and T12 just fit
TAG_HEIGHT_M = 0.012  # tag above the sensor's origin, out of the back
BORDER = 10 / 8  # whole tag with its margin over the black square
ASIDE_DEG = 30.0
SHUTTER_S = 0.005
SUB_EXPOSURES = 5
NOISE_SD = 1.0  # grey levels; more makes the file far larger and the corners hardly worse
LENS_BLUR_PX = 0.7
SUPERSAMPLING = 2
TEXTURE_CELL_PX = 16
# (segment, height above it, half the body's width) in m, from the hips to the neck.
OUTLINE = (
    (0, -0.25, 0.185),
    (0, -0.10, 0.180),
    (0, 0.02, 0.160),
    (1, 0.00, 0.132),
    (2, 0.00, 0.138),
    (3, -0.03, 0.168),
    (3, 0.08, 0.190),
    (3, 0.15, 0.150),
    (3, 0.20, 0.065),
    (3, 0.30, 0.060),
)
SKIN_YUV = (158, 113, 146)
STRAP_YUV = (52, 131, 126)
STRAP_HALF_M = 0.014


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion, all rows exposed at once.

    Attributes:
        matrix: (3, 3) intrinsics in pixels.
        R_camera_world: (3, 3); camera axes right, down, forward.
        position_m: (3,) in the world.
        width: pixels.
        height: pixels.
    """

    matrix: Array
    R_camera_world: Array
    position_m: Array
    width: int
    height: int

    def project(self, points_m: Array) -> Array:
        """Pixel coordinates (..., 2) of world points (..., 3); pixel centres are integers."""
        seen = (points_m - self.position_m) @ self.R_camera_world.T @ self.matrix.T
        return np.asarray(seen[..., :2] / seen[..., 2:])


@dataclass(frozen=True)
class Scene:
    """Everything that the camera sees."""

    motion: SpineMotion
    mounts: tuple[Mount, ...]
    camera: Camera


@dataclass(frozen=True)
class TagPath:
    """Where every tag is.

    Attributes:
        R_camera_tag: (tag, n, 3, 3).
        corners_px: (tag, n, 4, 2) of the black square, clockwise from its upper left.
        borders_px: (tag, n, 4, 2) of the white margin.
    """

    R_camera_tag: Array
    corners_px: Array
    borders_px: Array


def draw_camera(rng: np.random.Generator, width: int, height: int) -> Camera:
    """Put a camera at back height behind the person and to one side.

    A tag seen straight on hardly changes its picture when it tilts; seen from aside it does.
    """
    focal = 1040.0 * min(width / 1280, height / 720)
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    behind = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    tilt = Rotation.from_rotvec(np.radians(rng.uniform(-2.5, 2.5, 3))).as_matrix()
    aside = Rotation.from_euler("y", ASIDE_DEG, degrees=True).as_matrix()
    R_camera_world = tilt @ behind @ aside
    target = np.array([-0.04, 0.205, 0.0]) + rng.uniform(-0.01, 0.01, 3)
    return Camera(matrix, R_camera_world, target - 0.84 * R_camera_world[2], width, height)


def tag_path(scene: Scene, times_s: Array) -> TagPath:
    """Follow every tag at the given video times (n,)."""
    orientations, origins = scene.motion.poses(times_s)
    half = TAG_SIZE_M / 2
    square = np.array([[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]])
    rotations: list[Array] = []
    corners: list[Array] = []
    borders: list[Array] = []
    for index, mount in enumerate(scene.mounts):
        R_world_tag = orientations[index] @ mount.R_segment_tag
        outwards = mount.lever_m + TAG_HEIGHT_M * mount.R_segment_tag[:, 2]
        centre = (origins[index] + orientations[index] @ outwards)[:, None]
        rotations.append(scene.camera.R_camera_world @ R_world_tag)
        for scale, into in ((1.0, corners), (BORDER, borders)):
            points = centre + np.einsum("nij,kj->nki", R_world_tag, scale * square)
            into.append(scene.camera.project(points))
    return TagPath(np.stack(rotations), np.stack(corners), np.stack(borders))


def film(
    scene: Scene, frames: int, rate: Fraction, path: Path, *, seed: int, progress: Progress
) -> None:
    """Render the scene and write it as H.264 in MP4.

    Args:
        scene: what to film.
        frames: how many.
        rate: frames per second; frame k is exposed around k / rate.
        path: file to write.
        seed: of the clutter and the noise.
        progress: told how far the rendering has come.
    """
    rng = np.random.default_rng(seed)
    times = np.arange(frames) / float(rate)
    offsets = ((np.arange(SUB_EXPOSURES) + 0.5) / SUB_EXPOSURES - 0.5) * SHUTTER_S
    exposures = [tag_path(scene, times + offset).borders_px for offset in offsets]
    borders = np.stack(exposures, axis=2)  # (tag, frame, exposure, 4, 2)
    bodies = _body_outlines(scene, times)
    painter = _Painter(scene, rng)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = scene.camera.width, scene.camera.height
        stream.pix_fmt = "yuv420p"
        # Both so that the same frames give the same bytes: they depend on the number of threads,
        # and x264's macroblock tree reads stray memory at widths such as 480.
        stream.options = {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0"}
        stream.codec_context.thread_count = 1
        for index in range(frames):
            picture = painter.paint(bodies[index], borders[:, index])
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = index
            frame.time_base = 1 / rate
            container.mux(stream.encode(frame))
            progress("video", (index + 1) / frames)
        container.mux(stream.encode(None))


@dataclass(frozen=True)
class _Body:
    skin_px: Array  # (k, 2) polygon
    straps_px: Array  # (tag, 4, 2)


def _body_outlines(scene: Scene, times_s: Array) -> list[_Body]:
    orientations, origins = scene.motion.poses(times_s)
    back = -0.7 * 0.06
    sides = []
    for side in (-1.0, 1.0):
        stations = [
            origins[segment] + orientations[segment] @ np.array([back, height, side * half])
            for segment, height, half in OUTLINE
        ]
        points = scene.camera.project(np.stack(stations, axis=1))
        knots = np.arange(len(OUTLINE))
        sides.append(CubicSpline(knots, points, axis=1)(np.linspace(0, knots[-1], 60)))
    skin = np.concatenate([sides[0], sides[1][:, ::-1]], axis=1)
    widths = (0.158, 0.132, 0.138, 0.172)
    straps = []
    for index in range(len(scene.mounts)):
        half = widths[index] - 0.004
        box = np.array([[back, y, z] for y, z in ((1, -half), (1, half), (-1, half), (-1, -half))])
        box[:, 1] *= STRAP_HALF_M
        around = np.einsum("nij,kj->nki", orientations[index], box)
        straps.append(scene.camera.project(origins[index][:, None] + around))
    return [_Body(skin[k], np.stack([s[k] for s in straps])) for k in range(len(times_s))]


class _Painter:
    """Paints frames over a fixed background; holds what does not change between them."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.width, self.height = scene.camera.width, scene.camera.height
        self.rng = rng
        self.textures = [_tag_texture(mount.tag) for mount in scene.mounts]
        self.background = _clutter(rng, self.width, self.height)
        noise = rng.normal(0.0, NOISE_SD, (self.height + 64, self.width + 64))
        self.noise = np.round(noise).astype(np.int16)  # shifted at random for every frame

    def paint(self, body: _Body, borders_px: Array) -> Image:
        """Paint one frame.

        Args:
            body: outline of the person.
            borders_px: (tag, exposure, 4, 2) of the tags' margins.

        Returns:
            yuv420p picture (3/2 height, width).
        """
        luma = self.background.copy()
        half_size = (self.height // 2, self.width // 2)
        planes = [luma, np.full(half_size, 128, np.uint8), np.full(half_size, 128, np.uint8)]
        for channel, plane in enumerate(planes):
            scale = 1.0 if channel == 0 else 0.5
            _fill(plane, body.skin_px, scale, SKIN_YUV[channel])
            for strap in body.straps_px:
                _fill(plane, strap, scale, STRAP_YUV[channel])
            for border in borders_px[:, len(borders_px[0]) // 2]:
                if channel:
                    _fill(plane, border, scale, 128)
        for texture, border in zip(self.textures, borders_px, strict=True):
            self._paint_tag(luma, texture, border)
        top, left = self.rng.integers(0, 65, 2)
        noise = self.noise[top : top + self.height, left : left + self.width]
        noisy = cv2.add(luma, noise, dtype=cv2.CV_8U)
        chroma = [plane.reshape(-1, self.width) for plane in planes[1:]]
        return np.concatenate([noisy, *chroma])

    def _paint_tag(self, luma: Image, texture: Grey, borders_px: Array) -> None:
        """Average the tag over its exposures into ``luma``; ``borders_px`` is (exposure, 4, 2)."""
        if _area(borders_px[0]) <= 0:  # seen from behind
            return
        low = np.maximum(np.floor(borders_px.min((0, 1))).astype(int) - 6, 0)
        high = np.ceil(borders_px.max((0, 1))).astype(int) + 7
        high = np.minimum(high, [self.width, self.height])
        if (high - low < 4).any():
            return
        region = luma[low[1] : high[1], low[0] : high[0]]
        size = (int(high[0] - low[0]), int(high[1] - low[1]))
        painted = np.zeros((*region.shape, 2), np.float32)
        for border in borders_px:
            painted += _warp(texture, border - low, size)
        painted /= len(borders_px)
        mixed = painted[..., 0] + region * (1 - painted[..., 1])
        soft = cv2.GaussianBlur(mixed, (0, 0), LENS_BLUR_PX)
        region[:] = np.clip(np.round(soft), 0, 255).astype(np.uint8)


def _warp(texture: Grey, border_px: Array, size: tuple[int, int]) -> Grey:
    """Tag and its coverage (height, width, 2) as seen in a window whose pixels have centres."""
    side = texture.shape[0] - 0.5
    source = np.array([[-0.5, -0.5], [side, -0.5], [side, side], [-0.5, side]], np.float32)
    target = ((border_px + 0.5) * SUPERSAMPLING - 0.5).astype(np.float32)
    fine = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
    big = cv2.warpPerspective(texture, cv2.getPerspectiveTransform(source, target), fine)
    return np.asarray(cv2.resize(big, size, interpolation=cv2.INTER_AREA), np.float32)


def _tag_texture(tag: int) -> Grey:
    """The printed tag with its white margin, and its coverage: (side, side, 2)."""
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    marker = cv2.aruco.generateImageMarker(dictionary, tag, TEXTURE_CELL_PX * 8)
    sheet = np.pad(marker, TEXTURE_CELL_PX, constant_values=255)
    ink = 22.0 + sheet.astype(np.float32) * (215.0 - 22.0) / 255.0
    return np.stack([ink, np.ones_like(ink)], axis=-1)


def _clutter(rng: np.random.Generator, width: int, height: int) -> Image:
    """A dim room: soft light, shelves and boxes, some texture."""
    shape = (height, width)
    soft = cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), 60.0)
    room = 92.0 + 14.0 * soft / soft.std()
    for _ in range(26):
        left, top = rng.integers(0, width), rng.integers(0, height)
        wide, tall = rng.integers(width // 40, width // 7), rng.integers(height // 30, height // 4)
        grey = float(rng.uniform(45, 165))
        low, high = (int(left), int(top)), (int(left + wide), int(top + tall))
        cv2.rectangle(room, low, high, grey, cv2.FILLED)
    texture = cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), 1.5)
    room = cv2.GaussianBlur(room, (0, 0), 2.0) + 3.0 * texture / texture.std()
    return np.asarray(np.clip(room, 16, 235), np.uint8)


def _fill(plane: Image, polygon_px: Array, scale: float, value: int) -> None:
    fraction_bits = 4
    points = ((polygon_px + 0.5) * scale - 0.5) * (1 << fraction_bits)
    limit = 1 << 14  # OpenCV wraps far coordinates around
    whole = np.clip(np.round(points), -limit, 4 * limit).astype(np.int32)
    cv2.fillPoly(plane, [whole], value, cv2.LINE_AA, fraction_bits)


def _area(corners_px: Array) -> float:
    """Signed area; positive where the corners go round clockwise in the image."""
    x, y = corners_px.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
