"""What inertial sensors strapped to the made-up spine measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cis_tasks.spine.synthetic.motion import STEP_S, Array, SpineMotion, body_rates

GRAVITY_M_S2 = 9.80665
SAMPLE_RATE_HZ = 200.0
# Typical of today's wearable MEMS units (Movella DOT data sheet).
GYRO_NOISE_DENSITY = np.radians(0.007)  # rad/s/√Hz
ACC_NOISE_DENSITY = 120e-6 * GRAVITY_M_S2  # m/s²/√Hz
GYRO_BIAS_SD = np.radians(0.5)  # rad/s
ACC_BIAS_SD = 0.02  # m/s²
SKIN_M = 0.06  # from the vertebra's centre back to the sensor on the skin
# Seen from behind: the tag's x to the person's right, its y up, its z out of the back.
R_SEGMENT_TAG_NOMINAL = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class Mount:
    """One sensor with the tag glued on it, strapped to one segment.

    Attributes:
        sensor: name of the sensor in the file of readings.
        tag: id of its AprilTag.
        segment: name of the segment it is strapped to.
        R_segment_sensor: (3, 3).
        R_segment_tag: (3, 3).
        lever_m: (3,) sensor's origin in the segment's axes.
        gyro_bias: (3,) rad/s.
        acc_bias: (3,) m/s².
        start_s: first sample's delay on the sensors' clock.
    """

    sensor: str
    tag: int
    segment: str
    R_segment_sensor: Array
    R_segment_tag: Array
    lever_m: Array
    gyro_bias: Array
    acc_bias: Array
    start_s: float

    @property
    def R_sensor_tag(self) -> Array:  # noqa: N802  R_target_source
        """The rotation that a calibration has to find."""
        return np.asarray(self.R_segment_sensor.T @ self.R_segment_tag)


@dataclass(frozen=True)
class Clock:
    """The sensors' clock reads ``rate * t + offset_s`` at video time ``t``."""

    offset_s: float
    rate: float

    def to_video(self, readings_s: Array) -> Array:
        """Video time of the clock's readings."""
        return (readings_s - self.offset_s) / self.rate


@dataclass(frozen=True)
class Samples:
    """What one sensor recorded.

    Attributes:
        sensor: its name.
        times_s: (n,) on the sensors' clock.
        gyr: (n, 3) rad/s in the sensor's axes.
        acc: (n, 3) m/s² specific force in the sensor's axes.
    """

    sensor: str
    times_s: Array
    gyr: Array
    acc: Array


def draw_mounts(rng: np.random.Generator, motion: SpineMotion) -> tuple[Mount, ...]:
    """Strap one sensor on every segment, turned at random, its tag a few degrees askew."""
    mounts = []
    for index, segment in enumerate(motion.segments):
        askew = Rotation.from_rotvec(np.radians(rng.normal(0.0, 3.0, 3))).as_matrix()
        mounts.append(
            Mount(
                sensor=f"imu{index + 1}",
                tag=index,
                segment=segment.name,
                R_segment_sensor=Rotation.random(rng=rng).as_matrix(),
                R_segment_tag=R_SEGMENT_TAG_NOMINAL @ askew,
                lever_m=np.array([-SKIN_M, 0.0, 0.0]) + rng.normal(0.0, 0.004, 3),
                gyro_bias=rng.normal(0.0, GYRO_BIAS_SD, 3),
                acc_bias=rng.normal(0.0, ACC_BIAS_SD, 3),
                start_s=float(rng.uniform(0.0, 1.0 / SAMPLE_RATE_HZ)),
            )
        )
    return tuple(mounts)


def measure(
    motion: SpineMotion,
    index: int,
    mount: Mount,
    clock: Clock,
    *,
    span_s: tuple[float, float],
    rng: np.random.Generator,
) -> Samples:
    """Record one sensor while the spine moves.

    Args:
        motion: of the spine.
        index: of the segment that ``mount`` is strapped to.
        mount: sensor to record.
        clock: that stamps the samples.
        span_s: first and last video time to record.
        rng: of the noise.

    Returns:
        Evenly spaced samples with white noise and constant bias.
    """
    first, last = (clock.rate * edge + clock.offset_s for edge in span_s)
    count = int((last - first - mount.start_s) * SAMPLE_RATE_HZ)
    stamps = first + mount.start_s + np.arange(count) / SAMPLE_RATE_HZ
    times = clock.to_video(stamps)
    paths = [_sensor_pose(motion, index, mount, times + step) for step in (-STEP_S, 0.0, STEP_S)]
    (R_before, p_before), (R_world_sensor, p_now), (R_after, p_after) = paths
    acceleration = (p_before - 2 * p_now + p_after) / STEP_S**2
    acceleration[:, 1] += GRAVITY_M_S2  # an accelerometer at rest feels the ground push up
    force = np.einsum("nji,nj->ni", R_world_sensor, acceleration)
    bandwidth = np.sqrt(SAMPLE_RATE_HZ / 2)
    return Samples(
        sensor=mount.sensor,
        times_s=stamps,
        gyr=body_rates(R_before, R_after, STEP_S)
        + mount.gyro_bias
        + rng.normal(0.0, GYRO_NOISE_DENSITY * bandwidth, force.shape),
        acc=force + mount.acc_bias + rng.normal(0.0, ACC_NOISE_DENSITY * bandwidth, force.shape),
    )


def _sensor_pose(
    motion: SpineMotion, index: int, mount: Mount, times_s: Array
) -> tuple[Array, Array]:
    orientations, origins = motion.poses(times_s)
    R_world_segment = orientations[index]
    return R_world_segment @ mount.R_segment_sensor, origins[
        index
    ] + R_world_segment @ mount.lever_m
