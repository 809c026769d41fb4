"""Accuracy of the spine calibration: sessions with known truth, peers beside ours, faults named.

python benchmarks/spine_accuracy.py [--quick] [--json] [--sessions DIR] [--imu DIR] [SESSION …]

A sessions folder holds sensor_data/<s>.csv and .json, video_footage/<s>.mp4 and truth/<s>.npz
with offset_s, rate, R_camera_tag (sensor, frame, 3, 3), R_sensor_tag (sensor, 3, 3) and
gyro_bias (sensor, 3), sensors in the rig's order; ``spine_sessions.py`` renders more of them.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vqf
from reporting import Goal, arguments, report
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation, Slerp
from spine_faults import fault_table

from cis_tasks.errors import CisError
from cis_tasks.spine.anchor import orient
from cis_tasks.spine.angles import R_UPRIGHT_TAG_SEGMENT, cardan_rad
from cis_tasks.spine.calibration import Calibration
from cis_tasks.spine.options import Options
from cis_tasks.spine.pose import tag_corners
from cis_tasks.spine.procedure import calibrate_sightings
from cis_tasks.spine.readers import read_recording
from cis_tasks.spine.recording import Recording, Track
from cis_tasks.spine.rig import Rig, read_rig
from cis_tasks.spine.tags import Sightings, watch
from cis_tasks.spine.video import Video

SHARED = Path(__file__).resolve().parents[2] / "shared/data"
NAMES = ("slow-a", "translation", "small-tags")
SMALL_PX = 45.0  # sessions with smaller tags are judged by the goal for 30 px, and photometrically
STAMPED_LATE_S = 0.0041  # of the gyroscopes against their optical reference in these recordings
RELATIVE_DEG, RELATIVE_SMALL_DEG = 0.23, 0.33
OFFSET_MS, MOUNTING_MEAN_DEG, MOUNTING_WORST_DEG = 0.2, 0.25, 0.5
COVERED = (0.90, 0.98)


@dataclass(frozen=True)
class Session:
    """A session with all that was read from it."""

    name: str
    folder: Path
    recording: Recording
    rig: Rig
    truth: Any
    sightings: Sightings

    def calibrate(self, **changes: Any) -> Calibration:
        """Calibrate it, with some of the inputs exchanged."""
        parts = {"recording": self.recording, "sightings": self.sightings, "rig": self.rig}
        return calibrate_sightings(**{**parts, "options": Options(), **changes})


def load(folder: Path, name: str, options: Options | None = None) -> Session:
    rig = read_rig(folder / f"sensor_data/{name}.json")
    recording = read_recording(folder / f"sensor_data/{name}.csv", rig=rig)
    with Video(folder / f"video_footage/{name}.mp4") as video:
        sightings = watch(video, rig, options or Options())
    truth = np.load(folder / f"truth/{name}.npz")
    return Session(name, folder, recording, rig, truth, sightings)


def angle_deg(R: np.ndarray) -> np.ndarray:
    flat = Rotation.from_matrix(R.reshape(-1, 3, 3)).magnitude()
    return np.rad2deg(flat).reshape(R.shape[:-2])


def relative_rmse_deg(found: np.ndarray, true: np.ndarray) -> list[float]:
    """RMSE of each neighbouring pair of (S, K, 3, 3) orientations in the camera."""
    error = (found[:-1].mT @ found[1:]).mT @ (true[:-1].mT @ true[1:])
    return [float(rmse) for rmse in np.sqrt((angle_deg(error) ** 2).mean(1))]


def tags_at_truth(calibration: Calibration, truth: Any) -> np.ndarray:
    """(S, K, 3, 3) tags in the camera, interpolated at the truth's frame times."""
    frames_s = np.arange(truth["R_camera_tag"].shape[1]) / float(truth["fps"])
    at = frames_s.clip(calibration.time_s[0], calibration.time_s[-1])
    return np.array(
        [
            Slerp(calibration.time_s, Rotation.from_matrix(sensor.R_camera_tag))(at).as_matrix()
            for sensor in calibration.sensors
        ]
    )


def measure(folder: Path, name: str) -> tuple[Session, dict[str, Any]]:
    """Calibrate a session, with CPU time and errors; small tags photometrically."""
    wall, cpu = time.perf_counter(), time.process_time()
    session = load(folder, name)
    if small := float(np.nanmedian(session.sightings.side_px)) < SMALL_PX:
        wall, cpu = time.perf_counter(), time.process_time()
        session = load(folder, name, Options(refine="photometric"))
    calibration = session.calibrate()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = errors(calibration, session.truth)
    found |= {
        "corners": "photometric" if small else "apriltag",
        "small": small,
        "wall_s": wall,
        "cpu_s": cpu,
        "vqf_relative_deg": vqf_relative_deg(session),
    }
    return session, found


def errors(calibration: Calibration, truth: Any) -> dict[str, Any]:
    sync = calibration.sync
    true_offset_s = float(truth["offset_s"]) + STAMPED_LATE_S
    true_mid_s = true_offset_s + (float(truth["rate"]) - 1) * sync.mid_s
    sensors = calibration.sensors
    mounting = [
        float(angle_deg(sensor.R_sensor_tag.T @ true))
        for sensor, true in zip(sensors, truth["R_sensor_tag"], strict=True)
    ]
    bias = np.array([s.gyro_bias for s in sensors]) - truth["gyro_bias"]
    bias_sd = np.array([s.gyro_bias_sd for s in sensors])
    offset_mid_s = sync.offset_mid_s - true_mid_s
    return {
        "relative_deg": relative_rmse_deg(
            tags_at_truth(calibration, truth), truth["R_camera_tag"].astype(float)
        ),
        "offset_ms": (sync.offset_s - true_offset_s) * 1e3,
        "offset_mid_ms": offset_mid_s * 1e3,
        "mounting_deg": mounting,
        "bias_deg_s": np.rad2deg(np.linalg.norm(bias, axis=1)).tolist(),
        "tag_px": [sensor.tag_px for sensor in sensors],
        "passed": calibration.passed,
        "warnings": [gate.code for gate in calibration.gates if not gate.passed],
        "inside": {
            "offset": [abs(offset_mid_s) < sync.offset_95_s],
            "mounting": [
                error < np.rad2deg(sensor.mounting_95_rad)
                for error, sensor in zip(mounting, sensors, strict=True)
            ],
            "bias": (np.abs(bias) < 1.96 * bias_sd).ravel().tolist(),
            "angles": angles_inside(calibration, truth),
        },
    }


def angles_inside(calibration: Calibration, truth: Any) -> list[bool]:
    """Whether each angle of each frame lies in its 95 % interval."""
    true = truth["R_camera_tag"].astype(float) @ R_UPRIGHT_TAG_SEGMENT
    frame = np.round(calibration.time_s * float(truth["fps"])).astype(int)
    inside = []
    for i, series in enumerate(calibration.angles):
        expected = cardan_rad((true[i].mT @ true[i + 1])[frame])
        error = (series.cardan_rad - expected + np.pi) % (2 * np.pi) - np.pi
        known = np.isfinite(series.sd_rad).all(1)
        inside += (np.abs(error) < 1.96 * series.sd_rad)[known].ravel().tolist()
    return inside


def vqf_relative_deg(session: Session) -> list[float]:
    """VQF alone, handed the truth: bias, mounting, clocks, and heading over the first second."""
    truth = session.truth
    true = truth["R_camera_tag"].astype(float)
    frames_s = np.arange(true.shape[1]) / float(truth["fps"])
    at = float(truth["rate"]) * frames_s + float(truth["offset_s"]) + STAMPED_LATE_S
    found = []
    for s, (_, tag) in enumerate(session.rig.ordered_tags):
        track = session.recording.tracks[tag.sensor]
        step = float(np.median(np.diff(track.time_s)))
        gyr = np.ascontiguousarray(track.gyr - truth["gyro_bias"][s])
        quaternions = vqf.offlineVQF(gyr, np.ascontiguousarray(track.acc), None, step)["quat6D"]
        path = Slerp(track.time_s, Rotation.from_quat(quaternions, scalar_first=True))
        carried = path(at).as_matrix() @ truth["R_sensor_tag"][s]
        first = frames_s < 1.0
        reset = Rotation.from_matrix(true[s][first] @ carried[first].mT).mean().as_matrix()
        found.append(reset @ carried)
    return relative_rmse_deg(np.array(found), true)


def beyond_deg(session: Session) -> list[float]:
    """Angles after the video, anchored to it: its second half is kept from us."""
    sightings = session.sightings
    half = sightings.time_s < sightings.time_s[-1] / 2
    cut = replace(
        sightings,
        time_s=sightings.time_s[half],
        corners_px=sightings.corners_px[:, half],
        information=None if sightings.information is None else sightings.information[:, half],
    )
    calibration = session.calibrate(sightings=cut)
    true = session.truth["R_camera_tag"].astype(float)
    out = []
    for i, series in enumerate(calibration.beyond):
        frame = np.round(series.time_s * float(session.truth["fps"])).astype(int)
        after = (frame >= half.sum()) & (frame < true.shape[1])
        expected = (true[i].mT @ true[i + 1])[frame[after]]
        axes = R_UPRIGHT_TAG_SEGMENT
        error = expected.mT @ (axes @ series.R_caudal_cranial[after] @ axes.T)
        out.append(float(np.sqrt((angle_deg(error) ** 2).mean())))
    return out


def mounting_floor_deg(session: Session) -> list[float]:
    """Sensor-to-tag errors with perfect corners: what the recordings themselves leave."""
    true = session.truth["R_camera_tag"].astype(float)
    time_s = np.arange(true.shape[1]) / float(session.truth["fps"])
    K = session.rig.camera.intrinsics
    corners = true @ tag_corners(session.rig.tag_size_m).T + np.array([[0.0], [0.0], [1.0]])
    pixels = (K @ corners).swapaxes(-1, -2)
    facing = true[..., 2, 2] < -0.2
    corners_px = np.where(facing[..., None, None], pixels[..., :2] / pixels[..., 2:], np.nan)
    sightings = replace(
        session.sightings, time_s=time_s, corners_px=corners_px, information=None, thumbnails=()
    )
    calibration = session.calibrate(sightings=sightings)
    return [
        float(angle_deg(sensor.R_sensor_tag.T @ own))
        for sensor, own in zip(calibration.sensors, session.truth["R_sensor_tag"], strict=True)
    ]


def broad_deg(imu: Path) -> dict[str, tuple[float, float]]:
    """Recording → total orientation error in motion (9D): ours, and VQF's as it comes."""
    found = {}
    for path in sorted(imu.glob("broad_*.npz")):
        with np.load(path) as file:
            gyr, acc, mag, true, moving = (
                np.ascontiguousarray(file[key], dtype=np.float64)
                for key in ("gyr", "acc", "mag", "quat_omc", "movement")
            )
            fs = float(file["fs"])
        rest = np.arange(len(gyr)) < np.flatnonzero(moving > 0)[0] - fs
        track = Track(path.stem, np.arange(len(gyr)) / fs, gyr, acc)
        judged = np.isfinite(true).all(1) & (moving > 0)
        expected = Rotation.from_quat(true[judged], scalar_first=True)
        ours = orient(track, gyr[rest].mean(0), mag)
        plain = vqf.offlineVQF(gyr, acc, mag, 1 / fs)["quat9D"]
        theirs = Rotation.from_quat(plain, scalar_first=True)
        if ours is None:
            continue
        both = [
            float(np.rad2deg(np.sqrt(((expected * way[judged].inv()).magnitude() ** 2).mean())))
            for way in (ours, theirs)
        ]
        found[path.stem.removeprefix("broad_")] = (both[0], both[1])
    return found


def judge(
    sessions: dict[str, dict[str, Any]],
    broad: dict[str, tuple[float, float]],
    faults: list[dict[str, Any]],
) -> list[Goal]:
    goals = []
    for name, figure in sessions.items():
        limit = RELATIVE_SMALL_DEG if figure["small"] else RELATIVE_DEG
        mean = float(np.mean(figure["relative_deg"]))
        goals.append(Goal.at_most(f"{name}: relative angle °, {figure['corners']}", mean, limit))
        goals.append(Goal.at_most(f"{name}: offset ms", abs(figure["offset_ms"]), OFFSET_MS))
        theirs = float(np.mean(figure["vqf_relative_deg"]))
        goals.append(Goal.at_most(f"{name}: relative angle ° against VQF's", mean, theirs))
    large = [f for f in sessions.values() if not f["small"]] or list(sessions.values())
    mounting = np.concatenate([figure["mounting_deg"] for figure in large])
    goals.append(Goal.at_most("sensor-to-tag, mean °", float(mounting.mean()), MOUNTING_MEAN_DEG))
    goals.append(Goal.at_most("sensor-to-tag, worst °", float(mounting.max()), MOUNTING_WORST_DEG))
    for what, share in coverage(sessions).items():
        low, high = COVERED if what == "angles" else (COVERED[0], 1.0)
        met = low <= share <= high
        goals.append(Goal(f"{what} inside their 95 % interval, share", share, low, met))
    if broad:
        ours, theirs = np.mean(list(broad.values()), axis=0).tolist()
        goals.append(Goal.at_most("orientation on BROAD, 9D ° (goal: VQF's)", ours, theirs))
    wrong = sum(not fault["named"] for fault in faults)
    goals.append(Goal.at_most("faults not named, or false alarms", float(wrong), 0.0))
    return goals


def coverage(sessions: dict[str, dict[str, Any]]) -> dict[str, float]:
    kinds = ("offset", "mounting", "bias", "angles")
    return {
        kind: float(np.mean(np.concatenate([f["inside"][kind] for f in sessions.values()])))
        for kind in kinds
    }


def rows(sessions: dict[str, dict[str, Any]]) -> list[list[str]]:
    def several(values: list[float]) -> str:
        return " ".join(f"{value:.2f}" for value in values)

    return [
        [
            name,
            figure["corners"],
            several(figure["relative_deg"]),
            several(figure["vqf_relative_deg"]),
            several(figure["beyond_deg"]),
            f"{figure['offset_ms']:+.2f} {figure['offset_mid_ms']:+.2f}",
            several(figure["mounting_deg"]),
            several(figure["mounting_floor_deg"]),
            several(figure["bias_deg_s"]),
            f"{figure['cpu_s']:.1f}",
        ]
        for name, figure in sessions.items()
    ]


COLUMNS = (
    "session", "corners", "relative °", "VQF, handed all °", "beyond the video °",
    "offset ms, at 0 and middle", "sensor-to-tag °", "with perfect tags °", "bias °/s", "CPU s",
)  # fmt: skip


def show_more(broad: dict[str, tuple[float, float]], faults: list[dict[str, Any]]) -> None:
    console = Console(width=150)
    table = partial(Table, title_justify="left", box=None, header_style="dim")
    if broad:
        orientation = table("recording", "ours °", "VQF °", title="\nOrientation on BROAD, 9D")
        for name, (ours, theirs) in broad.items():
            orientation.add_row(name, f"{ours:.2f}", f"{theirs:.2f}")
        console.print(orientation)
    named = table("fault", "ends in", "says", "", title="\nFaults")
    for fault in faults:
        verdict = "[green]named[/]" if fault["named"] else "[red]NOT NAMED[/]"
        named.add_row(fault["fault"], fault["code"], fault["says"][:80], verdict)
    console.print(named)
    console.print()


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="SESSION")
    parser.add_argument("--sessions", type=Path, default=SHARED / "sessions")
    parser.add_argument("--imu", type=Path, default=SHARED / "imu")
    args = parser.parse_args()
    if not args.sessions.is_dir():
        print(f"No sessions with truth in {args.sessions}; give --sessions DIR.", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    names = args.names[:1] if args.quick else args.names
    try:
        figures, broad, faults = run(args.sessions, names, None if args.quick else args.imu)
    except (CisError, OSError) as error:
        print(f"Could not run: {error}", file=sys.stderr)
        return 1
    goals = judge(figures, broad, faults)
    if not args.as_json:
        show_more(broad, faults)
    for figure in figures.values():
        figure["inside"] = {kind: float(np.mean(v)) for kind, v in figure["inside"].items()}
    report(
        "Sessions with known truth",
        COLUMNS,
        rows(figures),
        figures={"sessions": figures, "broad_deg": broad, "faults": faults},
        goals=goals,
        as_json=args.as_json,
    )
    return 0


def run(folder: Path, names: tuple[str, ...], imu: Path | None) -> tuple[Any, Any, Any]:
    figures, sessions = {}, []
    for name in names:
        session, figure = measure(folder, name)
        figure["beyond_deg"] = beyond_deg(session)
        figure["mounting_floor_deg"] = mounting_floor_deg(session)
        figures[name] = figure
        sessions.append(session)
    broad = broad_deg(imu) if imu and imu.is_dir() else {}
    return figures, broad, fault_table(sessions[0], sessions)


if __name__ == "__main__":
    sys.exit(main())
