"""Photometric refinement on CPU and CUDA: how fast, and whether both find the same corners.

python benchmarks/spine_gpu.py [--quick] [--json]

Tags are rendered by the model's own scale of blur and noise; the first batch warms up.
"""

from __future__ import annotations

import sys
import time

import cv2
import numpy as np
import torch
from reporting import Goal, arguments, report

from cis_tasks.spine.photometric import BATCH, Refined, Refiner

TAGS = 4
SESSION = 2400  # tags in 20 s of 720p30 with four of them
SESSION_S = 20.0
SAME_PX = 0.002  # largest difference between devices


def crops(count: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(tag, corners, picture): tags of 30–60 px in any pose, blurred and noisy."""
    rng = np.random.default_rng(0)
    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    sheets = [
        np.pad(cv2.aruco.generateImageMarker(family, tag, 128), 16, constant_values=255)
        for tag in range(TAGS)
    ]
    source = np.array([[15.5, 15.5], [143.5, 15.5], [143.5, 143.5], [15.5, 143.5]], np.float32)
    found = []
    for k in range(count):
        side, turn = rng.uniform(30, 60), rng.uniform(0, 2 * np.pi)
        square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * side
        R = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        corners = square @ R.T + 60 + rng.uniform(-2, 2, 2) + rng.uniform(-3, 3, (4, 2))
        M = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
        picture = cv2.warpPerspective(
            sheets[k % TAGS].astype(np.float32), M, (120, 120), borderValue=110
        )
        picture = 20 + 0.8 * cv2.GaussianBlur(picture, (0, 0), 0.8) + rng.normal(0, 3, (120, 120))
        grey = np.clip(picture, 0, 255).astype(np.uint8)
        found.append((k % TAGS, corners + rng.normal(0, 0.3, (4, 2)), grey))
    return found


def refine(
    tags: list[tuple[int, np.ndarray, np.ndarray]], device: str
) -> tuple[Refined, float, float]:
    """What was found, and the wall and CPU seconds that it took."""
    refiner = Refiner("36h11", range(TAGS), torch.device(device))
    start, cpu = time.perf_counter(), time.process_time()
    for tag, corners, grey in tags:
        refiner.offer(tag, corners, grey)
    found = refiner.finish()
    return found, time.perf_counter() - start, time.process_time() - cpu


def main() -> int:
    args = arguments(__doc__).parse_args()
    count = SESSION // 4 if args.quick else SESSION
    tags = crops(count)
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    figures, rows, goals = {}, [], []
    corners = {}
    for device in devices:
        refine(tags[:BATCH], device)
        found, seconds, cpu_s = refine(tags, device)
        corners[device] = found.corners_px
        speed = SESSION_S * count / SESSION / seconds
        figures[device] = {
            "s": seconds,
            "cpu_s": cpu_s,
            "tags_per_s": count / seconds,
            "real_time": speed,
        }
        rows.append(
            [device, f"{count / seconds:.0f}", f"{seconds:.2f}", f"{cpu_s:.2f}", f"{speed:.1f}×"]
        )
    if "cuda" in corners:
        apart = float(np.nanmax(np.abs(corners["cuda"] - corners["cpu"])))
        goals.append(Goal.at_most("CPU and CUDA apart, px", apart, SAME_PX))
        speed = figures["cuda"]["real_time"]
        goals.append(Goal("real time on CUDA, ×", speed, 50.0, speed >= 50.0))
    else:
        rows.append(["cuda", "no device here", "", "", ""])
    columns = ("device", "tags/s", "wall s", "CPU s", "real time")
    title = f"Photometric refinement of {count} tags"
    report(title, columns, rows, figures=figures, goals=goals, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
