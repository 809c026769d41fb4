"""Speed of the spine calibration, stage by stage, peers beside ours, and its memory.

python benchmarks/spine_speed.py [--quick] [--json] [--sessions DIR]

CPU seconds are those of all threads; a stage's wall time also depends on what else runs. Memory
is the peak of a process that watches a video of ten minutes (a minute with --quick) and solves it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import vqf
from reporting import Goal, arguments, report

from cis_tasks.spine.options import Options
from cis_tasks.spine.procedure import calibrate_sightings
from cis_tasks.spine.readers import read_recording
from cis_tasks.spine.recording import Recording, Track
from cis_tasks.spine.rig import read_rig
from cis_tasks.spine.sample import rig_of
from cis_tasks.spine.synthetic.footage import Scene, draw_camera, tag_path
from cis_tasks.spine.synthetic.motion import draw_motion
from cis_tasks.spine.synthetic.sensors import Clock, draw_mounts, measure
from cis_tasks.spine.tags import Sightings, watch
from cis_tasks.spine.video import Frame, Video

SESSIONS = Path(__file__).resolve().parents[2] / "shared/data/sessions"
NAME = "slow-a"
CORES = 2  # that the goal is for
REAL_TIME, MEMORY_MB = 4.0, 2000.0
PEER_FRAMES = 40


@dataclass(frozen=True)
class Spent:
    """What something took, for a session of ``video_s``."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], Any]) -> tuple[Any, Spent]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Spent(time.perf_counter() - wall, time.process_time() - cpu)


def stages(folder: Path) -> tuple[dict[str, Spent], float]:
    rig, read = timed(lambda: read_rig(folder / f"sensor_data/{NAME}.json"))
    recording, reading = timed(lambda: read_recording(folder / f"sensor_data/{NAME}.csv", rig=rig))
    path = folder / f"video_footage/{NAME}.mp4"

    def decode() -> int:
        with Video(path) as video:
            return sum(1 for _ in video)

    def detect(options: Options) -> Sightings:
        with Video(path) as video:
            return watch(video, rig, options)

    frames, decoding = timed(decode)
    sightings, detecting = timed(lambda: detect(Options(refine="apriltag")))
    _, fitting = timed(lambda: detect(Options(refine="photometric", device="cpu")))
    _, solving = timed(lambda: calibrate_sightings(recording, sightings, rig, Options()))
    total = Spent(
        read.wall_s + reading.wall_s + detecting.wall_s + solving.wall_s,
        read.cpu_s + reading.cpu_s + detecting.cpu_s + solving.cpu_s,
    )
    found = {
        "read": reading,
        "decode alone": decoding,
        "decode and detect, overlapped": detecting,
        "align, solve, angles, posture": solving,
        "whole session": total,
        "decode, detect, photometric on CPU": fitting,
    }
    return found | peers(path, recording, frames), sightings.video.duration_s


def peers(path: Path, recording: Recording, frames: int) -> dict[str, Spent]:
    """What others do for parts of it, for the whole session."""
    with Video(path) as video:
        some = [frame.grey.copy() for frame, _ in zip(video, range(PEER_FRAMES), strict=False)]
    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_APRILTAG
    detector = cv2.aruco.ArucoDetector(family, parameters)
    found = {}
    _, spent = timed(lambda: [detector.detectMarkers(grey) for grey in some])
    found["peer: OpenCV ArUco, every whole frame"] = _scaled(spent, frames / len(some))
    if pupil := _pupil():
        _, spent = timed(lambda: [pupil.detect(grey) for grey in some])
        found["peer: pupil-apriltags, every whole frame"] = _scaled(spent, frames / len(some))
    tracks = recording.tracks.values()
    _, found["peer: VQF offline, all sensors"] = timed(lambda: [_vqf(track) for track in tracks])
    return found


def _pupil() -> Any:
    try:
        from pupil_apriltags import Detector  # noqa: PLC0415
    except ImportError:
        return None
    return Detector(families="tag36h11", nthreads=CORES)


def _vqf(track: Track) -> None:
    gyr, acc = np.ascontiguousarray(track.gyr), np.ascontiguousarray(track.acc)
    vqf.offlineVQF(gyr, acc, None, 1 / track.rate_hz)


def _scaled(spent: Spent, times: float) -> Spent:
    return Spent(spent.wall_s * times, spent.cpu_s * times)


class Looped:
    """A video shown again and again, its time running on."""

    def __init__(self, path: Path, duration_s: float) -> None:
        self.path = path
        self.file, self.damaged, self.expected_s = path.name, 0, duration_s
        with Video(path) as video:
            self.width, self.height = video.width, video.height

    def __iter__(self) -> Iterator[Frame]:
        start_s = 0.0
        while True:
            with Video(self.path) as video:
                for frame in video:
                    if start_s + frame.time_s > self.expected_s:
                        return
                    yield Frame(start_s + frame.time_s, frame.grey)
                    last_s = frame.time_s
            start_s += last_s + 1 / 30


def long_session(folder: Path, duration_s: float) -> dict[str, float]:
    """Watch and solve a long session, and say how much memory it took at most, MB."""
    torch.set_num_threads(1)
    video = Looped(folder / f"video_footage/{NAME}.mp4", duration_s)
    rig = read_rig(folder / f"sensor_data/{NAME}.json")
    seen = watch(video, rig, Options())
    watched = _peak_mb()
    rng = np.random.default_rng(0)
    motion = draw_motion(rng, 1.0)
    mounts = draw_mounts(rng, motion)
    scene = Scene(motion, mounts, draw_camera(rng, 1280, 720))
    clock = Clock(0.3, 1.0002)
    samples = [
        measure(motion, i, mount, clock, span_s=(-1.0, duration_s + 1.0), rng=rng)
        for i, mount in enumerate(mounts)
    ]
    tracks = {s.sensor: Track(s.sensor, s.times_s, s.gyr, s.acc) for s in samples}
    corners = tag_path(scene, seen.time_s).corners_px
    corners = corners + rng.normal(0, 0.1, corners.shape)
    sightings = Sightings(seen.time_s, corners, seen.video)
    calibration = calibrate_sightings(
        Recording("long.csv", tracks), sightings, rig_of(scene.camera, mounts), Options()
    )
    found = {"video_s": duration_s, "watched_mb": watched, "solved_mb": _peak_mb()}
    return found | {"passed": float(calibration.passed)}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--sessions", type=Path, default=SESSIONS)
    parser.add_argument("--long", type=float, default=0.0, help="only this many seconds' memory")
    args = parser.parse_args()
    if not args.sessions.is_dir():
        print(f"No sessions in {args.sessions}; give --sessions DIR.", file=sys.stderr)
        return 2
    if args.long:
        print(json.dumps(long_session(args.sessions, args.long)))
        return 0
    torch.set_num_threads(1)
    found, video_s = stages(args.sessions)
    long_s = 60.0 if args.quick else 600.0
    command = [sys.executable, __file__, "--sessions", str(args.sessions), "--long", str(long_s)]
    memory = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    whole = found["whole session"]
    # All but the start of the work is spread over threads, so that two cores share it.
    on_two = video_s / max(whole.cpu_s / CORES, 1e-9)
    rows = [
        [name, f"{s.cpu_s:.2f}", f"{s.wall_s:.2f}", f"{video_s / max(s.wall_s, 1e-9):.1f}×"]
        for name, s in found.items()
    ]
    peak = max(memory["watched_mb"], memory["solved_mb"])
    rows.append([f"memory of {long_s / 60:.0f} min, MB", "", f"{peak:.0f}", ""])
    now = _times(video_s, whole)
    goals = [
        Goal("real time on this machine, as loaded, ×", now, REAL_TIME, now >= REAL_TIME),
        Goal("real time from CPU seconds on two cores, ×", on_two, REAL_TIME, on_two >= REAL_TIME),
        Goal.at_most(f"memory of {long_s / 60:.0f} min, MB", peak, MEMORY_MB),
    ]
    report(
        f"{video_s:.0f} s of 720p30 with four tags; load {os.getloadavg()[0]:.1f}",
        ("stage", "CPU s", "wall s", "real time"),
        rows,
        figures={
            "stages": {name: vars(spent) for name, spent in found.items()},
            "memory": memory,
        },
        goals=goals,
        as_json=args.as_json,
    )
    return 0


def _times(video_s: float, spent: Spent) -> float:
    return video_s / max(spent.wall_s, 1e-9)


if __name__ == "__main__":
    sys.exit(main())
