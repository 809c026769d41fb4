"""What was calibrated, sensor by sensor."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation

from cis_tasks.spine.calibration import Calibration, SensorCalibration
from cis_tasks.spine.markup import Markup, element, join, name
from cis_tasks.spine.report.parts import table
from cis_tasks.spine.report.words import degrees, number, share


def list_sensors(calibration: Calibration) -> Markup:
    """Each sensor with its calibration, from the lowest segment upwards."""
    titles = (
        "Segment", "Sensor", "Tag seen", "Bias x, y, z", "Mounting of the tag", "Reprojection",
        "χ²", "Samples",
    )  # fmt: skip
    rows = [_sensor(sensor) for sensor in calibration.sensors]
    return join(
        element("p", "What was calibrated, sensor by sensor, from the lowest segment upwards. SD "
                "is a standard deviation, widened to what was seen where the truth is known."),
        table(titles, rows),
    )  # fmt: skip


def _sensor(sensor: SensorCalibration) -> tuple[str, ...]:
    bias, sd = np.rad2deg(sensor.gyro_bias), np.rad2deg(sensor.gyro_bias_sd)
    return (
        element("strong", name(sensor.segment)),
        _lines(name(sensor.sensor), f"tag {sensor.tag}"),
        _lines(share(sensor.coverage), f"{number(sensor.tag_px, '.0f')} px"),
        _lines(
            f"{', '.join(number(float(b), '.3f') for b in bias)} °/s",
            f"SD {', '.join(number(float(b), '.3f') for b in sd)}",
        ),
        _mounting(sensor),
        f"{number(sensor.reprojection_px, '.2f')} px",
        number(sensor.chi2, ".2f"),
        _lines(str(sensor.samples), f"{number(sensor.rate_hz, '.1f')} Hz"),
    )


def _lines(first: str, second: str) -> Markup:
    return join(first, element("br"), element("span", second, class_="soft"))


def _mounting(sensor: SensorCalibration) -> Markup:
    if not np.isfinite(sensor.R_sensor_tag).all():
        return Markup("–")
    vector = Rotation.from_matrix(sensor.R_sensor_tag).as_rotvec()
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle else np.array([0.0, 0.0, 1.0])
    sd = degrees(math.degrees(sensor.mounting_sd_rad), ".2f")
    about = ", ".join(number(float(part), ".2f") for part in axis)
    return _lines(f"{degrees(math.degrees(angle))} (SD {sd})", f"about ({about})")
