"""How far a finished calibration is from a sample's truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float64]
CARDAN = ("flexion_deg", "lateral_deg", "axial_deg")


@dataclass(frozen=True)
class PairError:
    """Errors of one pair of neighbouring segments.

    Attributes:
        caudal: lower segment.
        cranial: upper segment.
        cardan_rmse_deg: flexion, lateral bending, axial rotation.
        rotation_rmse_deg: of the whole rotation between the two tags.
    """

    caudal: str
    cranial: str
    cardan_rmse_deg: tuple[float, float, float]
    rotation_rmse_deg: float


@dataclass(frozen=True)
class Comparison:
    """Errors of one calibration.

    Attributes:
        offset_ms: offset of the sensors' clock in the middle of the video, found minus true.
        rate_ppm: clock rate, found minus true.
        mounting_deg: sensor → angle between the found and the true sensor-to-tag rotation.
        bias_deg_s: sensor → error of the gyroscope's bias.
        pairs: neighbouring segments, from the lowest.
    """

    offset_ms: float
    rate_ppm: float
    mounting_deg: dict[str, float]
    bias_deg_s: dict[str, float]
    pairs: tuple[PairError, ...]


def compare(truth: Path, calibration: Path, angles: Path) -> Comparison:
    """Hold ``calibration.json`` and ``angles.parquet`` against a sample's truth file.

    Angles are compared at the video's frame times, where both are known.

    Raises:
        OSError: a file cannot be read.
        KeyError: a file is not of these forms.
    """
    true = json.loads(truth.read_text())
    found = json.loads(calibration.read_text())
    table = pl.read_parquet(angles)
    sensors = {sensor["sensor"]: sensor for sensor in found["sensors"]}
    rate = found["time"]["rate"] - true["rate"]
    middle_s = float(np.mean(true["time_s"]))
    return Comparison(
        offset_ms=1e3 * (found["time"]["offset_s"] - true["offset_s"] + rate * middle_s),
        rate_ppm=1e6 * rate,
        mounting_deg={
            item["sensor"]: _angle_deg(
                np.array(sensors[item["sensor"]]["R_sensor_tag"]).T @ np.array(item["R_sensor_tag"])
            )
            for item in true["sensors"]
        },
        bias_deg_s={
            item["sensor"]: _distance_deg(
                sensors[item["sensor"]]["gyro_bias_rad_s"], item["gyro_bias_rad_s"]
            )
            for item in true["sensors"]
        },
        pairs=tuple(_pair(pair, np.array(true["time_s"]), table) for pair in true["pairs"]),
    )


def _pair(true: dict[str, object], time_s: Floats, table: pl.DataFrame) -> PairError:
    caudal, cranial = str(true["caudal"]), str(true["cranial"])
    rows = table.filter((pl.col("caudal") == caudal) & (pl.col("cranial") == cranial)).drop_nulls()
    at = np.abs(rows["time_s"].to_numpy()[:, None] - time_s).argmin(1)
    cardan = rows.select(CARDAN).to_numpy() - np.array(true["cardan_deg"])[at]
    flexion, lateral, axial = np.sqrt((_wrapped(cardan) ** 2).mean(0)).tolist()
    quaternions = rows.select("tag_qx", "tag_qy", "tag_qz", "tag_qw").to_numpy()
    between = Rotation.from_matrix(np.array(true["R_caudal_cranial_tag"])[at]).inv()
    turned = np.degrees((between * Rotation.from_quat(quaternions)).magnitude())
    return PairError(
        caudal,
        cranial,
        (flexion, lateral, axial),
        float(np.sqrt((turned**2).mean())),
    )


def _wrapped(angle_deg: Floats) -> Floats:
    return np.asarray((angle_deg + 180.0) % 360.0 - 180.0)


def _angle_deg(R: Floats) -> float:
    return float(np.degrees(Rotation.from_matrix(R).magnitude()))


def _distance_deg(found: list[float], true: list[float]) -> float:
    return float(np.degrees(np.linalg.norm(np.subtract(found, true))))
