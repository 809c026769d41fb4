"""What a calibration is: the result objects that the outputs and the report are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cis_tasks.spine.options import Options
from cis_tasks.spine.rig import Rig
from cis_tasks.spine.uncertainty import WITHIN_95, WITHIN_95_OF_THREE

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class TimeSync:
    """How the sensors' clock relates to the video's: ``imu = rate · video + offset_s``.

    Attributes:
        offset_s: sensor time at video time zero.
        rate: sensor seconds per video second, near 1.
        offset_sd_s: standard deviation of the offset at ``mid_s``.
        rate_sd: standard deviation of the rate.
        mid_s: video time in the middle of the frames that were used, where the offset is known
            best.
        offset_mid_s: sensor time minus video time at ``mid_s``.
    """

    offset_s: float
    rate: float
    offset_sd_s: float
    rate_sd: float
    mid_s: float
    offset_mid_s: float

    @property
    def offset_95_s(self) -> float:
        """The offset at ``mid_s`` lies this near to the truth with 95 % probability."""
        return WITHIN_95 * self.offset_sd_s

    @property
    def rate_ppm(self) -> float:
        """How much faster the sensors' clock runs than the video's, parts per million."""
        return (self.rate - 1.0) * 1e6


@dataclass(frozen=True)
class SensorCalibration:
    """One sensor with its tag: the calibration, and the evidence for it frame by frame.

    All arrays have one row per video frame (K), in the order of ``Calibration.time_s``.

    Attributes:
        sensor: sensor id as in the recording and the rig.
        tag: AprilTag id.
        segment: segment of the spine that carries both.
        R_sensor_tag: (3, 3), takes tag coordinates to sensor coordinates.
        mounting_sd_rad: standard deviation of ``R_sensor_tag``, all axes together.
        gyro_bias: (3,) rad/s, what the gyroscope reads at rest, in sensor axes.
        gyro_bias_sd: (3,) rad/s, standard deviation.
        rate_hz: sample rate of the recording.
        samples: samples used, those around the video.
        coverage: share of the frames in which the tag was seen.
        tag_px: median side of the tag in the image, pixels.
        reprojection_px: RMS distance of the detected corners from the tag's pose.
        chi2: mean squared residual over its expected size, robust; near 1 when all is well.
        outlier_share: share of the seen frames in which camera and gyroscope disagree.
        corners_px: (K, 4, 2) detected corners, NaN where not seen.
        seen: (K,) the tag was seen.
        reprojection: (K,) px, RMS of each frame, NaN where not seen.
        residual_rad: (K,) angle between the tag as seen and as carried by the gyroscope, NaN
            where not seen.
        R_camera_tag: (K, 3, 3) smoothed orientation of the tag in the camera at the frame's time.
        orientation_sd_rad: (K, 3) standard deviation of the smoothed orientation, camera axes.
        camera_speed: (K,) rad/s, rotation speed from the video alone, NaN where unknown.
        gyro_speed: (K,) rad/s, rotation speed from the gyroscope over the same spans.
        inside: (K,) the recording covers the frame; outside it nothing is known but the tag.
        gyro_matrix: (3, 3) takes measured to true rates, before the bias is taken off; the
            identity unless scale and skew were solved for.
    """

    sensor: str
    tag: int
    segment: str
    R_sensor_tag: Floats
    mounting_sd_rad: float
    gyro_bias: Floats
    gyro_bias_sd: Floats
    rate_hz: float
    samples: int
    coverage: float
    tag_px: float
    reprojection_px: float
    chi2: float
    outlier_share: float
    corners_px: Floats
    seen: Flags
    reprojection: Floats
    residual_rad: Floats
    R_camera_tag: Floats
    orientation_sd_rad: Floats
    camera_speed: Floats
    gyro_speed: Floats
    inside: Flags
    gyro_matrix: Floats = field(default_factory=lambda: np.eye(3))

    @property
    def mounting_95_rad(self) -> float:
        """The mounting lies within this angle of the truth with 95 % probability."""
        return WITHIN_95_OF_THREE * self.mounting_sd_rad


@dataclass(frozen=True)
class AngleSeries:
    """The cranial segment of a neighbouring pair relative to the caudal one, over the video.

    Segment axes are those of the ISB (Wu et al., J Biomech 35:543, 2002): x to the front, y
    towards the head, z to the right.

    Attributes:
        caudal: name of the lower segment.
        cranial: name of the upper segment.
        time_s: (K,) video time.
        R_caudal_cranial: (K, 3, 3), takes cranial coordinates to caudal coordinates.
        cardan_rad: (K, 3) flexion (positive forwards), lateral bending (positive to the right),
            axial rotation (positive to the left), in that order of rotations.
        sd_rad: (K, 3) standard deviation of the three.
        gimbal: (K,) lateral bending is so near ±90° that the other two are not determined.
        visible: (K,) both tags were seen; elsewhere the gyroscopes carry the angles.
    """

    caudal: str
    cranial: str
    time_s: Floats
    R_caudal_cranial: Floats
    cardan_rad: Floats
    sd_rad: Floats
    gimbal: Flags
    visible: Flags

    @property
    def cardan_deg(self) -> Floats:
        """(K, 3) flexion, lateral bending and axial rotation in degrees."""
        return np.rad2deg(self.cardan_rad)

    @property
    def interval_95_deg(self) -> tuple[Floats, Floats]:
        """(K, 3) lower and upper ends of the angles' 95 % intervals, degrees."""
        half = WITHIN_95 * np.rad2deg(self.sd_rad)
        return self.cardan_deg - half, self.cardan_deg + half

    @property
    def name(self) -> str:
        """The pair as people write it, ``L1/sacrum``: upper over lower."""
        return f"{self.cranial}/{self.caudal}"


@dataclass(frozen=True)
class Posture:
    """The whole spine over the video: of the skin under the sensors, not of the vertebrae.

    Attributes:
        segments: from the lowest.
        tilt_rad: (S, K, 2) of each segment against gravity: forwards, to the right; NaN without
            accelerometers.
        tilt_sd_rad: (S, K) standard deviation of either.
        kyphosis_rad: (K,) how far the upper thoracic sensor bends forwards over the one nearest
            T12; NaN where the rig has no such pair.
        lordosis_rad: (K,) how far the sensor nearest T12 bends back over the sacrum.
        course_m: (K, P, 3) the line along the back in the lowest segment's axes.
        notice: what these figures are not.
    """

    segments: tuple[str, ...]
    tilt_rad: Floats
    tilt_sd_rad: Floats
    kyphosis_rad: Floats
    lordosis_rad: Floats
    course_m: Floats
    notice: str


@dataclass(frozen=True)
class Gate:
    """One quality check.

    Attributes:
        name: what is checked, for people.
        code: stable identifier in ``snake_case``; the error's code when the job fails on it.
        value: what was found, in ``unit``; the worst sensor's where sensors are checked.
        limit: where it stops being good, in ``unit``.
        unit: unit of both; empty for plain numbers.
        sense: whether the value has to be at most or at least the limit.
        passed: whether it is.
        level: ``fail``: the job fails with it; ``warn``: the result stands, with a warning.
        why: what the value says, on which sensor.
        hint: what to do when it is not passed.
    """

    name: str
    code: str
    value: float
    limit: float
    unit: str
    sense: Literal["at_most", "at_least"]
    passed: bool
    level: Literal["fail", "warn"]
    why: str
    hint: str


@dataclass(frozen=True)
class Thumbnail:
    """A video frame, made small, with the tags that were found in it.

    Attributes:
        time_s: video time.
        image: (h, w) grey values, uint8.
        corners_px: tag id → (4, 2) corners in the small image's pixels.
    """

    time_s: float
    image: NDArray[np.uint8]
    corners_px: dict[int, Floats]


@dataclass(frozen=True)
class VideoInfo:
    """What the video turned out to be.

    Attributes:
        file: name of the file, without folders.
        width: pixels.
        height: pixels.
        frames: decoded frames.
        duration_s: from the first to the last frame.
        frame_rate_hz: median.
        damaged_frames: frames or packets that could not be decoded.
    """

    file: str
    width: int
    height: int
    frames: int
    duration_s: float
    frame_rate_hz: float
    damaged_frames: int = 0


@dataclass(frozen=True)
class Calibration:
    """The calibrated spine: everything that the outputs and the report show.

    Attributes:
        time_s: (K,) video times of the frames.
        sync: the two clocks.
        sensors: in the order of the rig's segments, from the sacrum upwards.
        angles: neighbouring pairs, caudal first; empty for a rig with a single sensor.
        gates: the quality checks.
        warnings: what the reader should know, in sentences.
        video: about the video.
        rig: the rig that was used.
        options: the settings that were used.
        sensors_file: name of the recording's file, without folders.
        thumbnails: a few frames for a contact sheet.
        up_camera: (3,) unit vector against gravity in camera axes; None without accelerometers.
        acc_bias: (S, 3) m/s², what the accelerometers read too much; NaN where unknown.
        posture: the whole spine over the video.
        beyond: the pairs' angles before and after the video, as far as all sensors recorded.
    """

    time_s: Floats
    sync: TimeSync
    sensors: tuple[SensorCalibration, ...]
    angles: tuple[AngleSeries, ...]
    gates: tuple[Gate, ...]
    warnings: tuple[str, ...]
    video: VideoInfo
    rig: Rig
    options: Options
    sensors_file: str = ""
    thumbnails: tuple[Thumbnail, ...] = field(default=())
    up_camera: Floats | None = None
    acc_bias: Floats | None = None
    posture: Posture | None = None
    beyond: tuple[AngleSeries, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every gate that a job can fail on was passed."""
        return all(gate.passed or gate.level == "warn" for gate in self.gates)
