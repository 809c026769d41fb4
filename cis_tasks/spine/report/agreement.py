"""Whether camera and sensors agree, and when each tag was seen."""

from __future__ import annotations

import numpy as np

from cis_tasks.spine.calibration import Calibration
from cis_tasks.spine.markup import Markup, element, join
from cis_tasks.spine.plots import (
    NORMAL_95,
    alignment_plot,
    coverage_strip,
    liveliest,
    residual_plot,
)
from cis_tasks.spine.report.parts import figure
from cis_tasks.spine.report.words import median, number, share, who, whose


def show_agreement(calibration: Calibration) -> Markup:
    """How fast camera and gyroscopes say that each tag turns, and how far they disagree."""
    time_s, sync = calibration.time_s, calibration.sync
    span = liveliest(time_s, calibration.sensors)
    part = (
        "" if span == slice(0, len(time_s))
        else f" The liveliest {time_s[span][-1] - time_s[span][0]:.0f} s are shown."
    )  # fmt: skip
    figures = []
    for i, sensor in enumerate(calibration.sensors):
        figures += [
            figure(
                alignment_plot(time_s, sensor, span, f"speed-{i}"),
                f"Rotation speed of {whose(sensor)} from camera and from gyroscope, over time.",
                who(sensor),
                ". Wide: camera; thin: gyroscope, after alignment." + part,
            ),
            figure(
                residual_plot(time_s, sensor, f"residual-{i}"),
                f"Angle between camera and gyroscope of {whose(sensor)}, over time and as a "
                "histogram.",
                who(sensor),
                f". Dashed: median {number(median(np.rad2deg(sensor.residual_rad)), '.2f')}°; "
                f"{share(sensor.outlier_share)} of the frames are outliers. Grey: no tag seen.",
            ),
        ]
    clocks = (
        f"The sensors' clock reads {number(sync.offset_mid_s, '.4f')} s (± "
        f"{number(NORMAL_95 * sync.offset_sd_s * 1e3, '.2g')} ms) more than the video's in the "
        f"middle of the session, and runs {number(abs(sync.rate_ppm), '.0f')} parts per million "
        f"{'faster' if sync.rate_ppm >= 0 else 'slower'}."
    )
    return join(
        element("p", "When the clocks are aligned, both tell the same speed, and the two lines lie "
                "on each other. ", clocks),
        element("div", *figures, class_="figures"),
    )  # fmt: skip


def show_coverage(calibration: Calibration) -> Markup:
    """When each tag was seen."""
    rows = [
        element(
            "li",
            element("span", who(sensor), class_="who"),
            element("span", share(sensor.coverage), class_="share"),
            coverage_strip(calibration.time_s, sensor),
        )
        for sensor in calibration.sensors
    ]
    first, last = calibration.time_s[0], calibration.time_s[-1]
    ends = [element("span", f"{end:.1f} s") for end in (first, last)]
    return join(
        element("p", "Bars stand where the tag was seen; a gap or a low bar is a time when the "
                "gyroscope carried it. Orange: the sensor was not recording."),
        element("ul", *rows, class_="coverage"),
        element("div", *ends, class_="scale", aria_hidden="true"),
    )  # fmt: skip
