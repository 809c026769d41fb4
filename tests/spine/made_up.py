"""Sessions with known truth: a spine that turns smoothly, as its sensors and a camera see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import polars as pl
from scipy.spatial.transform import Rotation

from cis_tasks.spine.calibration import VideoInfo
from cis_tasks.spine.pose import tag_corners
from cis_tasks.spine.recording import Recording, Track
from cis_tasks.spine.rig import Camera, Rig, Tag
from cis_tasks.spine.tags import Sightings

SEGMENTS = ("sacrum", "L1", "T12", "T6")
FACING = np.diag([1.0, -1.0, -1.0])  # a tag that looks straight into the camera, upright
QUICK_STEP_S = 1e-4


@dataclass(frozen=True)
class Plan:
    """What session to make up."""

    sensors: int = 4
    duration_s: float = 10.0
    frame_rate_hz: float = 30.0
    rates_hz: tuple[float, ...] = (285.0,)
    before_s: float = 1.5  # of the recording, before the video
    after_s: float = 1.5
    offset_s: float = 0.37
    rate: float = 1.0005
    amplitude_rad: float = 0.5
    axes: tuple[float, float, float] = (1.0, 1.0, 1.0)
    corner_sd_px: float = 0.0
    gyro_sd: float = 0.0
    readout_s: float = 0.0
    distortion: tuple[float, ...] = ()
    focal_px: float = 1000.0
    width: int = 1280
    height: int = 720
    tag_size_m: float = 0.06
    distance_m: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Session:
    """A made-up session with its truth."""

    plan: Plan
    recording: Recording
    sightings: Sightings
    rig: Rig
    R_sensor_tag: np.ndarray
    bias: np.ndarray
    R_camera_tag: Callable[[int, np.ndarray], np.ndarray] = field(repr=False)
    position_m: Callable[[int, np.ndarray], np.ndarray] = field(repr=False)

    def with_tracks(self, change: Callable[[Track], Track]) -> Recording:
        tracks = {name: change(track) for name, track in self.recording.tracks.items()}
        return replace(self.recording, tracks=tracks)


def make_session(plan: Plan) -> Session:
    rng = np.random.default_rng(plan.seed)
    waves = _Waves.draw(rng, plan)
    R_sensor_tag = Rotation.random(plan.sensors, rng=rng).as_matrix()
    bias = np.deg2rad(rng.normal(0, 0.7, (plan.sensors, 3)))
    rig = _rig(plan)
    tracks = {
        f"imu{s + 1}": _measure(waves, s, R_sensor_tag[s], bias[s], rng)
        for s in range(plan.sensors)
    }
    return Session(
        plan,
        Recording("made-up.csv", tracks),
        _see(plan, waves, rig, rng),
        rig,
        R_sensor_tag,
        bias,
        waves.orientation,
        waves.position,
    )


@dataclass(frozen=True)
class _Waves:
    plan: Plan
    size: np.ndarray  # (S, 3, W)
    pulse: np.ndarray  # rad/s
    phase: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, plan: Plan) -> _Waves:
        shape = (plan.sensors, 3, 3)
        size = rng.uniform(0.5, 1.0, shape) * plan.amplitude_rad / 3
        size *= np.array(plan.axes)[:, None]
        pulse = 2 * np.pi * rng.uniform(0.15, 1.0, shape)
        return cls(plan, size, pulse, rng.uniform(0, 2 * np.pi, shape))

    def orientation(self, s: int, time_s: np.ndarray) -> np.ndarray:
        waves = np.sin(self.pulse[s] * np.asarray(time_s)[..., None, None] + self.phase[s])
        vector = (self.size[s] * waves).sum(-1)
        return FACING @ Rotation.from_rotvec(vector).as_matrix()

    def position(self, s: int, time_s: np.ndarray) -> np.ndarray:
        height = (s - (self.plan.sensors - 1) / 2) * 0.15 * self.plan.distance_m
        sway = 0.02 * np.sin(1.3 * np.asarray(time_s) + s)
        return np.stack([sway, height + sway, np.full_like(sway, self.plan.distance_m)], -1)

    def corners(self, s: int, time_s: np.ndarray, rig: Rig) -> np.ndarray:
        X = tag_corners(self.plan.tag_size_m)
        Y = np.einsum("kij,nj->kni", self.orientation(s, time_s), X)
        Y = (Y + self.position(s, time_s)[:, None]).reshape(-1, 1, 3)
        distortion = np.array(rig.camera.distortion or (0.0,) * 5)
        pixels = cv2.projectPoints(Y, np.zeros(3), np.zeros(3), rig.camera.intrinsics, distortion)
        return pixels[0].reshape(-1, 4, 2)


def _rig(plan: Plan) -> Rig:
    f, cx, cy = plan.focal_px, plan.width / 2, plan.height / 2
    return Rig(
        camera=Camera(
            matrix=((f, 0, cx), (0, f, cy), (0, 0, 1)),
            distortion=plan.distortion,
            width=plan.width,
            height=plan.height,
            readout_s=plan.readout_s,
        ),
        tag_size_m=plan.tag_size_m,
        tags={s: Tag(sensor=f"imu{s + 1}", segment=SEGMENTS[s]) for s in range(plan.sensors)},
        segment_order=SEGMENTS[: plan.sensors],
    )


def _measure(
    waves: _Waves, s: int, R_sensor_tag: np.ndarray, bias: np.ndarray, rng: np.random.Generator
) -> Track:
    plan = waves.plan
    hz = plan.rates_hz[s % len(plan.rates_hz)]
    sensor_s = np.arange(
        -plan.before_s * plan.rate, (plan.duration_s + plan.after_s) * plan.rate, 1 / hz
    )

    def orientation(elapsed_s: np.ndarray) -> np.ndarray:
        return waves.orientation(s, elapsed_s / plan.rate) @ R_sensor_tag.T

    before, after = orientation(sensor_s - QUICK_STEP_S), orientation(sensor_s + QUICK_STEP_S)
    rate = Rotation.from_matrix(before.mT @ after).as_rotvec() / (2 * QUICK_STEP_S)
    gyr = rate + bias + rng.normal(0, plan.gyro_sd, rate.shape)
    acc = orientation(sensor_s).mT @ np.array([0.0, -9.81, 0.0])
    return Track(f"imu{s + 1}", sensor_s + plan.offset_s, gyr, acc)


def _see(plan: Plan, waves: _Waves, rig: Rig, rng: np.random.Generator) -> Sightings:
    time_s = np.arange(0, plan.duration_s, 1 / plan.frame_rate_hz)
    corners = []
    for s in range(plan.sensors):
        at = time_s
        for _ in range(5 if plan.readout_s else 0):  # the row decides the time, and it the row
            row = waves.corners(s, at, rig)[..., 1].mean(-1)
            at = time_s + plan.readout_s * (row / plan.height - 0.5)
        corners.append(waves.corners(s, at, rig))
    noisy = np.array(corners)
    noisy += rng.normal(0, plan.corner_sd_px, noisy.shape)
    info = VideoInfo(
        "made-up.mp4", plan.width, plan.height, len(time_s), plan.duration_s, plan.frame_rate_hz
    )
    return Sightings(time_s, noisy, info)


@dataclass(frozen=True)
class Files:
    """A session on disk, as a user has it."""

    sensors: Path
    video: Path
    rig: Path
    session: Session

    @property
    def inputs(self) -> dict[str, Path]:
        return {"sensor_data": self.sensors, "video_footage": self.video, "rig": self.rig}


def table_of(recording: Recording) -> pl.DataFrame:
    """The long table that a recording is read from."""
    parts = []
    for track in recording.tracks.values():
        columns = {"timestamp_s": track.time_s, "sensor_id": [track.sensor] * len(track.time_s)}
        for name, values in (("gyr", track.gyr), ("acc", track.acc)):
            columns |= {f"{name}_{axis}": values[:, i] for i, axis in enumerate("xyz")}
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def write_csv(recording: Recording, path: Path) -> None:
    table_of(recording).write_csv(path)


def render(made: Session, path: Path, **stream_options: str) -> None:
    """Film a session: flat grey background, sharp tags, a little noise."""
    plan, rng = made.plan, np.random.default_rng(1)
    textures = [_tag_image(tag) for tag in made.rig.tags]
    with av.open(str(path), "w", options=stream_options) as container:
        stream = container.add_stream("libx264", rate=Fraction(plan.frame_rate_hz))
        stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, "yuv420p"
        stream.options = {"crf": "18", "preset": "ultrafast"}
        for k in range(made.sightings.corners_px.shape[1]):
            image = np.full((plan.height, plan.width), 110, np.float32)
            for texture, corners in zip(textures, made.sightings.corners_px[:, k], strict=True):
                _paint(image, texture, corners)
            image += rng.normal(0, 2, image.shape)
            full = np.full((plan.height * 3 // 2, plan.width), 128, np.uint8)
            full[: plan.height] = np.clip(cv2.GaussianBlur(image, (0, 0), 0.6), 0, 255)
            frame = av.VideoFrame.from_ndarray(full, format="yuv420p")
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


CELL_PX = 16


def _tag_image(tag: int) -> np.ndarray:
    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    marker = cv2.aruco.generateImageMarker(family, tag, 8 * CELL_PX)
    border = [CELL_PX] * 4
    return cv2.copyMakeBorder(marker, *border, cv2.BORDER_CONSTANT, value=255)


def _paint(image: np.ndarray, texture: np.ndarray, corners: np.ndarray) -> None:
    low, high = CELL_PX - 0.5, 9 * CELL_PX - 0.5
    source = np.array([[low, low], [high, low], [high, high], [low, high]], np.float32)
    H = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    size = (image.shape[1], image.shape[0])
    mask = cv2.warpPerspective(np.ones_like(texture, np.float32), H, size)
    painted = cv2.warpPerspective(texture.astype(np.float32), H, size, flags=cv2.INTER_AREA)
    image *= 1 - mask
    image += 0.8 * painted + 20 * mask


def angle_deg(R: np.ndarray) -> np.ndarray:
    """Rotation angles of (…, 3, 3)."""
    flat = Rotation.from_matrix(np.reshape(R, (-1, 3, 3))).magnitude()
    return np.rad2deg(flat).reshape(np.shape(R)[:-2])
