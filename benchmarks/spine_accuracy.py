"""Accuracy and speed of the spine calibration on sessions with known truth.

python benchmarks/spine_accuracy.py [--quick] [--json] [--sessions DIR] [SESSION …]

A sessions folder holds sensor_data/<s>.csv and .json, video_footage/<s>.mp4 and truth/<s>.npz
with offset_s, rate, R_camera_tag (sensor, frame, 3, 3), R_sensor_tag (sensor, 3, 3) and
gyro_bias (sensor, 3), sensors in the rig's order.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation, Slerp

from cis_tasks.errors import CisError
from cis_tasks.spine import Calibration, calibrate

SESSIONS = Path(__file__).resolve().parents[2] / "shared/data/sessions"
NAMES = ("slow-a", "translation", "small-tags")
JUDGED = ("slow-a", "translation")  # small-tags shows what half the resolution costs
STAMPED_LATE_S = 0.0041  # of the gyroscopes against their optical reference in these recordings
GOALS = {"relative_deg": 0.30, "offset_ms": 0.5, "mounting_deg": 0.5}


def angle_deg(R: np.ndarray) -> np.ndarray:
    flat = Rotation.from_matrix(R.reshape(-1, 3, 3)).magnitude()
    return np.rad2deg(flat).reshape(R.shape[:-2])


def relative_rmse_deg(calibration: Calibration, truth: Any) -> list[float]:
    """RMSE of each neighbouring pair, interpolated at the truth's frame times, between tags."""
    true = truth["R_camera_tag"]
    frames_s = np.arange(true.shape[1]) / float(truth["fps"])
    at = frames_s.clip(calibration.time_s[0], calibration.time_s[-1])
    found = np.array(
        [
            Slerp(calibration.time_s, Rotation.from_matrix(sensor.R_camera_tag))(at).as_matrix()
            for sensor in calibration.sensors
        ]
    )
    error = (found[:-1].mT @ found[1:]).mT @ (true[:-1].mT @ true[1:])
    return [float(rmse) for rmse in np.sqrt((angle_deg(error) ** 2).mean(1))]


def measure(folder: Path, name: str) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    calibration = calibrate(
        folder / f"sensor_data/{name}.csv",
        folder / f"video_footage/{name}.mp4",
        folder / f"sensor_data/{name}.json",
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    truth = np.load(folder / f"truth/{name}.npz")
    offset_s = calibration.sync.offset_s - float(truth["offset_s"]) - STAMPED_LATE_S
    mounting = [
        float(angle_deg(sensor.R_sensor_tag.T @ true))
        for sensor, true in zip(calibration.sensors, truth["R_sensor_tag"], strict=True)
    ]
    bias = [
        float(np.rad2deg(np.linalg.norm(sensor.gyro_bias - true)))
        for sensor, true in zip(calibration.sensors, truth["gyro_bias"], strict=True)
    ]
    return {
        "relative_deg": relative_rmse_deg(calibration, truth),
        "offset_ms": offset_s * 1e3,
        "rate_ppm": calibration.sync.rate_ppm - (float(truth["rate"]) - 1) * 1e6,
        "mounting_deg": mounting,
        "bias_deg_s": bias,
        "tag_px": [sensor.tag_px for sensor in calibration.sensors],
        "coverage": [sensor.coverage for sensor in calibration.sensors],
        "outlier_share": [sensor.outlier_share for sensor in calibration.sensors],
        "passed": calibration.passed,
        "wall_s": wall,
        "cpu_s": cpu,
        "real_time_factor": calibration.video.duration_s / wall,
    }


def goals(figures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for name, figure in figures.items():
        if name not in JUDGED:
            continue
        for key, goal in GOALS.items():
            value = float(np.max(np.abs(figure[key])))
            found.append(
                {"name": f"{name} {key}", "value": value, "goal": goal, "met": value <= goal}
            )
    return found


def show(figures: dict[str, dict[str, Any]], judged: list[dict[str, Any]]) -> None:
    columns = "{:<14}{:<24}{:>10}{:>9}  {:<26}{:<26}{:>8}{:>8}"
    print(
        columns.format(
            "session",
            "relative angles °",
            "offset ms",
            "rate ppm",
            "sensor-to-tag °",
            "bias °/s",
            "CPU s",
            "wall s",
        )
    )
    for name, figure in figures.items():
        lists = {key: " ".join(f"{v:.2f}" for v in figure[key]) for key in figure_lists(figure)}
        print(
            columns.format(
                name,
                lists["relative_deg"],
                f"{figure['offset_ms']:+.2f}",
                f"{figure['rate_ppm']:+.0f}",
                lists["mounting_deg"],
                lists["bias_deg_s"],
                f"{figure['cpu_s']:.1f}",
                f"{figure['wall_s']:.1f}",
            )
        )
    print()
    for goal in judged:
        verdict = "met" if goal["met"] else "MISSED"
        print(f"{goal['name']:<28} {goal['value']:.3f}  (at most {goal['goal']})  {verdict}")


def figure_lists(figure: dict[str, Any]) -> list[str]:
    return [key for key, value in figure.items() if isinstance(value, list)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="SESSION")
    parser.add_argument("--quick", action="store_true", help="the first session only")
    parser.add_argument("--json", action="store_true", help="figures and goals as JSON")
    parser.add_argument("--sessions", type=Path, default=SESSIONS)
    args = parser.parse_args()
    names = args.names[:1] if args.quick else args.names
    if not args.sessions.is_dir():
        print(f"No sessions with truth in {args.sessions}; give --sessions DIR.", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    try:
        figures = {name: measure(args.sessions, name) for name in names}
    except (CisError, OSError) as error:
        print(f"Could not run: {error}", file=sys.stderr)
        return 1
    judged = goals(figures)
    if args.json:
        print(json.dumps({"figures": figures, "goals": judged}, indent=1))
    else:
        show(figures, judged)
    return 0


if __name__ == "__main__":
    sys.exit(main())
