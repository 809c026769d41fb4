"""Sessions with known truth from real recordings: real gyroscopes and motion, rendered tags.

python benchmarks/spine_sessions.py OUT [--imu DIR] [--only NAME …] [--tag-size M]

Each of a session's four sensors is a window of a BROAD recording (Laidig et al., Data 6:72, 2021);
its tag moves as the optical reference measured. The layout is that of ``spine_accuracy.py``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

Floats = NDArray[np.float64]

IMU = Path(__file__).resolve().parents[2] / "shared/data/imu"
SEGMENTS = ("sacrum", "L1", "T12", "T6")
WIDTH, HEIGHT, FOCAL_PX, FPS = 1280, 720, 1000.0, 30
DURATION_S, MARGIN_S = 20.0, 1.5
SHUTTER_S, EXPOSURES, BLUR_PX, NOISE_SD = 0.008, 5, 0.7, 4.0
OFFSET_S, RATE = 0.37, 1.0005
BIAS_DEG_S = (0.5, -0.3, 0.8)
R_CAMERA_EARTH = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # looks north, from east-north-up
STEEPEST_DEG = 60.0  # a tag counts as seen up to here
CELL_PX = 24


@dataclass(frozen=True)
class Plan:
    """What session to render: the recordings of its four sensors, and how large the tags are."""

    trials: tuple[str, ...]
    seed: int = 0
    tag_size_m: float = 0.06
    duration_s: float = DURATION_S


PLANS = {
    "slow-b": Plan(("02", "02", "04", "04"), seed=1),
    "fast": Plan(("07", "07", "07", "07"), seed=2),
    "breaks": Plan(("04", "28", "24", "02"), seed=3),
    "shift": Plan(("11", "11", "11", "11"), seed=4),
    "mixed": Plan(("02", "07", "28", "11"), seed=5),
    "small-b": Plan(("02", "04", "28", "02"), seed=6, tag_size_m=0.03),
    "small-fast": Plan(("07", "02", "24", "07"), seed=7, tag_size_m=0.03),
    "tiny": Plan(("02", "04", "28", "24"), seed=8, tag_size_m=0.022),
}


@dataclass(frozen=True)
class Part:
    """One sensor: its recording's window and how the tag sits on it."""

    trial: dict[str, Floats]
    start_s: float
    turn: Rotation  # of the earth before the camera
    R_sensor_tag: Floats
    path: Slerp

    def R_camera_tag(self, time_s: Floats) -> Floats:  # noqa: N802
        """(K, 3, 3) at video times."""
        at = self.path(self.start_s + time_s).as_matrix()
        return np.asarray(R_CAMERA_EARTH @ self.turn.as_matrix() @ at @ self.R_sensor_tag)


def load(name: str, imu: Path) -> dict[str, Floats]:
    (path,) = imu.glob(f"broad_{name}_*.npz")
    with np.load(path) as file:
        trial = {key: file[key].astype(np.float64) for key in file.files}
    trial["time_s"] = np.arange(len(trial["gyr"])) / float(trial["fs"])
    return trial


def choose(trial: dict[str, Floats], plan: Plan, rng: np.random.Generator) -> Part:
    """The window, tag side and view in which the tag faces the camera most, among some drawn."""
    time_s, known = trial["time_s"], np.isfinite(trial["quat_omc"]).all(1)
    path = Slerp(time_s[known], Rotation.from_quat(trial["quat_omc"][known], scalar_first=True))
    moving = time_s[trial["movement"] > 0]
    first, last = moving[0] + 1, moving[-1] - plan.duration_s - 1
    normals = rng.normal(size=(400, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    yaws = np.arange(0, 2 * np.pi, np.pi / 12)
    south = -np.stack([np.sin(yaws), np.cos(yaws), 0 * yaws], -1)
    best = (-1.0, 0.0, normals[0], 0.0)
    for start in rng.uniform(first, last, 25):
        R = path(start + np.arange(0, plan.duration_s, 0.1)).as_matrix()
        facing = np.einsum("kij,nj,yi->kny", R, normals, south)
        share = (facing > np.cos(np.deg2rad(STEEPEST_DEG))).mean(0)
        n, y = np.unravel_index(share.argmax(), share.shape)
        if share[n, y] > best[0]:
            best = (float(share[n, y]), float(start), normals[n], float(yaws[y]))
    _, start, z, yaw = best
    x = np.cross(z, rng.normal(size=3))
    x /= np.linalg.norm(x)
    R_sensor_tag = np.stack([x, np.cross(z, x), z], 1)
    return Part(trial, start, Rotation.from_euler("z", yaw), R_sensor_tag, path)


def write_session(folder: Path, name: str, plan: Plan, imu: Path = IMU) -> None:
    """Render a session into ``folder``."""
    rng = np.random.default_rng(plan.seed)
    parts = [choose(load(trial, imu), plan, rng) for trial in plan.trials]
    for place in ("sensor_data", "video_footage", "truth"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    times = np.arange(round(plan.duration_s * FPS)) / FPS
    np.savez(
        folder / f"truth/{name}.npz",
        offset_s=OFFSET_S,
        rate=RATE,
        fps=float(FPS),
        R_camera_tag=np.array([part.R_camera_tag(times) for part in parts]),
        R_sensor_tag=np.array([part.R_sensor_tag for part in parts]),
        gyro_bias=np.array([bias(part) for part in parts]),
        sensor=np.array([f"imu{s + 1}" for s in range(len(parts))]),
    )
    table(parts, plan).write_csv(folder / f"sensor_data/{name}.csv")
    (folder / f"sensor_data/{name}.json").write_text(json.dumps(rig(len(parts), plan), indent=1))
    film(folder / f"video_footage/{name}.mp4", parts, plan, rng)


def bias(part: Part) -> Floats:
    """What the gyroscope reads at rest before the movement, and what is put on top."""
    begin = int(np.flatnonzero(part.trial["movement"] > 0)[0] - float(part.trial["fs"]))
    return np.asarray(part.trial["gyr"][:begin].mean(0) + np.deg2rad(BIAS_DEG_S))


def table(parts: list[Part], plan: Plan) -> pl.DataFrame:
    rows = []
    for s, part in enumerate(parts):
        time_s = RATE * (part.trial["time_s"] - part.start_s) + OFFSET_S
        end = plan.duration_s * RATE + OFFSET_S + MARGIN_S
        near = (time_s > -MARGIN_S) & (time_s < end)
        values = {"gyr": part.trial["gyr"] + np.deg2rad(BIAS_DEG_S), "acc": part.trial["acc"]}
        values["mag"] = part.trial["mag"]
        columns = {
            f"{kind}_{axis}": data[near, i]
            for kind, data in values.items()
            for i, axis in enumerate("xyz")
        }
        names = [f"imu{s + 1}"] * int(near.sum())
        rows.append(pl.DataFrame({"timestamp_s": time_s[near], "sensor_id": names, **columns}))
    return pl.concat(rows).sort("timestamp_s", "sensor_id")


def rig(count: int, plan: Plan) -> dict[str, object]:
    matrix = [[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]]
    return {
        "camera": {"matrix": matrix, "width": WIDTH, "height": HEIGHT},
        "tag_size_m": plan.tag_size_m,
        "tags": {str(s): {"sensor": f"imu{s + 1}", "segment": SEGMENTS[s]} for s in range(count)},
        "segment_order": SEGMENTS[:count],
    }


def film(path: Path, parts: list[Part], plan: Plan, rng: np.random.Generator) -> None:
    """Exposure blur over several instants, lens blur, noise, clutter; H.264 at crf 20."""
    clutter = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 9)
    clutter += cv2.GaussianBlur(rng.normal(0, 0.2, clutter.shape).astype(np.float32), (0, 0), 2)
    background = np.clip(100 + 30 * clutter / clutter.std(), 20, 200).astype(np.float32)
    phases = rng.uniform(0, 6, (len(parts), 3))
    textures = [_texture(tag) for tag in range(len(parts))]
    exposures = ((np.arange(EXPOSURES) + 0.5) / EXPOSURES - 0.5) * SHUTTER_S
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        stream.codec_context.thread_count = 1
        for k in range(round(plan.duration_s * FPS)):
            image = background.copy()
            for s, part in enumerate(parts):
                at = np.maximum(k / FPS + exposures, 0.0)
                place = (s - (len(parts) - 1) / 2) / len(parts)
                borders = _borders(part, place, at, size_m=plan.tag_size_m, phase=phases[s])
                _paint(image, textures[s], borders)
            image = cv2.GaussianBlur(image, (0, 0), BLUR_PX)
            image += rng.normal(0, NOISE_SD, image.shape).astype(np.float32)
            picture = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
            picture[:HEIGHT] = np.clip(image, 0, 255)
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _borders(
    part: Part, place: float, time_s: Floats, *, size_m: float, phase: Floats
) -> Floats | None:
    """(exposures, 4, 2) corners of the white margin in pixels; None from behind.

    ``place`` is the tag's height in the column of tags, from -1/2 to 1/2.
    """
    half = size_m / 2 * 10 / 8
    square = np.array([[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]])
    R = part.R_camera_tag(time_s)
    sway = 0.02 * np.sin(2 * np.pi * np.array([0.3, 0.23, 0.17]) * time_s[:, None] + phase)
    p = np.array([0.0, 0.64 * place, 1.0]) + sway
    if (np.einsum("ki,ki->k", R[:, :, 2], p) > -0.15 * np.linalg.norm(p, axis=1)).any():
        return None
    X = np.einsum("kij,nj->kni", R, square) + p[:, None]
    return np.asarray(X[..., :2] / X[..., 2:] * FOCAL_PX + [WIDTH / 2, HEIGHT / 2])


def _paint(
    image: NDArray[np.float32], texture: NDArray[np.float32], borders: Floats | None
) -> None:
    if borders is None:
        return
    low = np.maximum(np.floor(borders.min((0, 1)) - 6), 0).astype(int)
    high = np.minimum(np.ceil(borders.max((0, 1)) + 7), [WIDTH, HEIGHT]).astype(int)
    if (high - low < 4).any():
        return
    region = image[low[1] : high[1], low[0] : high[0]]
    width, height = (high - low).tolist()
    side = texture.shape[0] - 0.5
    source = np.array([[-0.5, -0.5], [side, -0.5], [side, side], [-0.5, side]], np.float32)
    total = np.zeros((height, width, 2), np.float32)
    for border in borders:
        target = ((border - low + 0.5) * 4 - 0.5).astype(np.float32)
        turn = cv2.getPerspectiveTransform(source, target)
        warp = partial(cv2.warpPerspective, M=turn, dsize=(width * 4, height * 4))
        total += cv2.resize(warp(texture), (width, height), interpolation=cv2.INTER_AREA)
    total /= len(borders)
    region[:] = total[..., 0] + region * (1 - total[..., 1])


def _texture(tag: int) -> NDArray[np.float32]:
    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    marker = cv2.aruco.generateImageMarker(family, tag, 8 * CELL_PX)
    sheet = np.pad(marker, CELL_PX, constant_values=235).astype(np.float32)
    return np.stack([20 + 0.85 * sheet, np.ones_like(sheet)], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--imu", type=Path, default=IMU)
    parser.add_argument("--only", nargs="*", default=tuple(PLANS), choices=tuple(PLANS))
    args = parser.parse_args()
    for name in args.only:
        write_session(args.out, name, PLANS[name], args.imu)
        print(f"{args.out}: {name}", flush=True)


if __name__ == "__main__":
    main()
