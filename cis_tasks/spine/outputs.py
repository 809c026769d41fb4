"""The files of a calibration, the same bytes for the same result, and its summary."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.spatial.transform import Rotation

from cis_tasks.spine.calibration import AngleSeries, Calibration, Floats, Gate, SensorCalibration

FORMAT = 1
DIGITS = 9  # significant; below that lies the order in which threads add up
AXES = {
    "segment": "ISB: x front, y up towards the head, z right",
    "flexion": "about the lower segment's right axis, positive forwards",
    "lateral": "about the floating front axis, positive to the right",
    "axial": "about the upper segment's up axis, positive to the left",
    "order": "flexion, lateral, axial (Cardan)",
}
SCHEMA = {
    "time_s": pl.Float64,
    "caudal": pl.String,
    "cranial": pl.String,
    "flexion_deg": pl.Float64,
    "lateral_deg": pl.Float64,
    "axial_deg": pl.Float64,
    "flexion_sd_deg": pl.Float64,
    "lateral_sd_deg": pl.Float64,
    "axial_sd_deg": pl.Float64,
    "tag_qw": pl.Float64,
    "tag_qx": pl.Float64,
    "tag_qy": pl.Float64,
    "tag_qz": pl.Float64,
    "visible": pl.Boolean,
    "gimbal": pl.Boolean,
}


def write_outputs(calibration: Calibration, out: Path) -> list[Path]:
    """Write ``calibration.json``, the angles and the posture into ``out``.

    Angles have one row per frame and neighbouring pair. The three angles are anatomical;
    ``tag_qw…qz`` is the same rotation before anatomy, as a unit quaternion: it takes the cranial
    tag's coordinates to the caudal tag's. Where a sensor was not recording, both are null. The
    files hold no times of writing, so that equal results give equal bytes.
    """
    files = [out / "calibration.json", out / "angles.parquet", out / "angles.csv"]
    text = json.dumps(describe(calibration), indent=1, ensure_ascii=False, allow_nan=False)
    files[0].write_text(text + "\n", encoding="utf-8")
    table = angle_table(calibration)
    table.write_parquet(files[1])
    table.write_csv(files[2])
    for name, extra in (
        ("posture", posture_table(calibration)),
        ("beyond", beyond_table(calibration)),
    ):
        if extra.height:
            files += [out / f"{name}.parquet", out / f"{name}.csv"]
            extra.write_parquet(files[-2])
            extra.write_csv(files[-1])
    return files


def posture_table(calibration: Calibration) -> pl.DataFrame:
    """One row per frame: the two curves, and each segment's tilt against gravity."""
    posture = calibration.posture
    if posture is None:
        return pl.DataFrame()
    columns = {
        "time_s": calibration.time_s,
        "kyphosis_deg": np.rad2deg(posture.kyphosis_rad),
        "lordosis_deg": np.rad2deg(posture.lordosis_rad),
    }
    for s, segment in enumerate(posture.segments):
        tilt, sd = np.rad2deg(posture.tilt_rad[s]), np.rad2deg(posture.tilt_sd_rad[s])
        columns |= {
            f"{segment}_forward_deg": tilt[:, 0],
            f"{segment}_right_deg": tilt[:, 1],
            f"{segment}_tilt_sd_deg": sd,
        }
    return _tidy(pl.DataFrame(columns))


def beyond_table(calibration: Calibration) -> pl.DataFrame:
    """The angles before and after the video, in the columns of ``angle_table``."""
    kept = [name for name in SCHEMA if not name.startswith("tag_q")]
    parts = []
    for series in calibration.beyond:
        n = len(series.time_s)
        angles, sd = series.cardan_deg.T, np.rad2deg(series.sd_rad).T
        names = [[series.caudal] * n, [series.cranial] * n]
        columns = [series.time_s, *names, *angles, *sd, series.visible, series.gimbal]
        parts.append(pl.DataFrame(dict(zip(kept, columns, strict=True))))
    return _tidy(pl.concat(parts)) if parts else pl.DataFrame()


def _tidy(table: pl.DataFrame) -> pl.DataFrame:
    numbers = [name for name, kind in table.schema.items() if kind == pl.Float64]
    return table.with_columns(pl.col(numbers).fill_nan(None).round_sig_figs(DIGITS))


def angle_table(calibration: Calibration) -> pl.DataFrame:
    """The angles as a table, pairs from the sacrum upwards, each over time."""
    sensors = calibration.sensors
    parts = [_rows(*parts) for parts in zip(calibration.angles, sensors, sensors[1:], strict=False)]
    table = pl.concat(parts) if parts else pl.DataFrame(schema=SCHEMA)
    return _tidy(table)


def _rows(
    series: AngleSeries, caudal: SensorCalibration, cranial: SensorCalibration
) -> pl.DataFrame:
    n = len(series.time_s)
    angles, sd = series.cardan_deg.T, np.rad2deg(series.sd_rad).T
    R = caudal.R_camera_tag.mT @ cranial.R_camera_tag
    R[~(caudal.inside & cranial.inside)] = np.nan
    q = _quaternions(R).T
    columns = [
        series.time_s, [series.caudal] * n, [series.cranial] * n, *angles, *sd, *q,
        series.visible, series.gimbal,
    ]  # fmt: skip
    return pl.DataFrame(dict(zip(SCHEMA, columns, strict=True)), schema=SCHEMA)


def _quaternions(R: Floats) -> Floats:
    """(K, 4) w, x, y, z with w ≥ 0; NaN where the rotation is."""
    q = np.full((len(R), 4), np.nan)
    known = np.isfinite(R).all((1, 2))
    if known.any():
        q[known] = Rotation.from_matrix(R[known]).as_quat(canonical=True, scalar_first=True)
    return q


def describe(calibration: Calibration) -> dict[str, Any]:
    """What ``calibration.json`` holds."""
    described: dict[str, Any] = rounded(
        {
            "format": FORMAT,
            "passed": calibration.passed,
            "time": _time(calibration),
            "sensors": [_sensor(sensor) for sensor in calibration.sensors],
            "angles": _ranges(calibration),
            "posture": _posture(calibration),
            "axes": AXES,
            "gates": [asdict(gate) for gate in calibration.gates],
            "warnings": list(calibration.warnings),
            "video": asdict(calibration.video),
            "sensors_file": calibration.sensors_file,
            "rig": json.loads(calibration.rig.to_json()),
            "options": asdict(calibration.options),
        }
    )
    return described


def summarise(calibration: Calibration) -> dict[str, Any]:
    """The answer in a few JSON values."""
    summary: dict[str, Any] = rounded(
        {
            "passed": calibration.passed,
            "time_offset_s": calibration.sync.offset_s,
            "time_offset_sd_s": calibration.sync.offset_sd_s,
            "rate_ppm": calibration.sync.rate_ppm,
            "sensors": [_short(sensor) for sensor in calibration.sensors],
            "angles": _ranges(calibration),
            "gates": [_verdict(gate) for gate in calibration.gates],
            "warnings": list(calibration.warnings),
        }
    )
    return summary


def _time(calibration: Calibration) -> dict[str, Any]:
    sync = calibration.sync
    return {
        "meaning": "sensor time = rate * video time + offset_s",
        **asdict(sync),
        "rate_ppm": sync.rate_ppm,
        "offset_95_s": sync.offset_95_s,
    }


def _sensor(sensor: SensorCalibration) -> dict[str, Any]:
    residual = np.rad2deg(sensor.residual_rad[np.isfinite(sensor.residual_rad)])
    return {
        **_short(sensor),
        "gyro_bias_rad_s": sensor.gyro_bias.tolist(),
        "gyro_bias_sd_deg_s": np.rad2deg(sensor.gyro_bias_sd).tolist(),
        "gyro_matrix": sensor.gyro_matrix.tolist(),
        "R_sensor_tag": sensor.R_sensor_tag.tolist(),
        "rate_hz": sensor.rate_hz,
        "samples": sensor.samples,
        "tag_px": sensor.tag_px,
        "reprojection_px": sensor.reprojection_px,
        "chi2": sensor.chi2,
        "outlier_share": sensor.outlier_share,
        "median_residual_deg": float(np.median(residual)) if len(residual) else None,
    }


def _short(sensor: SensorCalibration) -> dict[str, Any]:
    return {
        "sensor": sensor.sensor,
        "tag": sensor.tag,
        "segment": sensor.segment,
        "gyro_bias_deg_s": np.rad2deg(sensor.gyro_bias).tolist(),
        "quaternion_sensor_tag_wxyz": _quaternions(sensor.R_sensor_tag[None])[0].tolist(),
        "mounting_sd_deg": math.degrees(sensor.mounting_sd_rad),
        "mounting_95_deg": math.degrees(sensor.mounting_95_rad),
        "coverage": sensor.coverage,
    }


def _ranges(calibration: Calibration) -> list[dict[str, Any]]:
    return [
        {"caudal": series.caudal, "cranial": series.cranial, **_range(series)}
        for series in calibration.angles
    ]


def _range(series: AngleSeries) -> dict[str, Any]:
    names = ("flexion_deg", "lateral_deg", "axial_deg")
    known = series.cardan_deg[np.isfinite(series.cardan_deg).all(1) & ~series.gimbal]
    if not len(known):
        return dict.fromkeys(names)
    return {
        name: {"min": low, "max": high, "mean": mean}
        for name, low, high, mean in zip(
            names, known.min(0), known.max(0), known.mean(0), strict=True
        )
    }


def _posture(calibration: Calibration) -> dict[str, Any] | None:
    posture = calibration.posture
    if posture is None:
        return None
    up, acc_bias = calibration.up_camera, calibration.acc_bias
    return {
        "notice": posture.notice,
        "up_camera": None if up is None else up.tolist(),
        "acc_bias_m_s2": None if acc_bias is None else acc_bias.tolist(),
        "kyphosis_deg": _extent(posture.kyphosis_rad),
        "lordosis_deg": _extent(posture.lordosis_rad),
        "tilt_deg": [
            {"segment": segment, "forward": _extent(tilt[:, 0]), "right": _extent(tilt[:, 1])}
            for segment, tilt in zip(posture.segments, posture.tilt_rad, strict=True)
        ],
    }


def _extent(angle_rad: Floats) -> dict[str, float] | None:
    known = np.rad2deg(angle_rad[np.isfinite(angle_rad)])
    if not len(known):
        return None
    return {"min": float(known.min()), "max": float(known.max()), "mean": float(known.mean())}


def _verdict(gate: Gate) -> dict[str, Any]:
    return {
        "name": gate.name,
        "passed": gate.passed,
        "value": gate.value,
        "limit": gate.limit,
        "unit": gate.unit,
    }


def rounded(value: Any) -> Any:
    """JSON values with their numbers cut to ``DIGITS``, and null for what is no number."""
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
