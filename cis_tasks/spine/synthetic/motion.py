"""How the made-up spine moves: four rigid segments on a pelvis that sways.

Axes follow the ISB recommendation (Wu et al. 2002, J Biomech 35:543): x to the front, y towards
the head, z to the right. The world has the same axes, with y straight up, so that a segment
standing upright and facing forward has the identity as its orientation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

STEP_S = 1e-3  # of the numeric derivatives; their error is below 1e-6 of the signal
WAVES = 3  # per angle


@dataclass(frozen=True)
class Segment:
    """One rigid part of the trunk.

    Attributes:
        name: vertebra under the sensor.
        spacing_m: distance along the spine from the segment below.
        neutral_deg: flexion relative to the segment below in quiet standing (the curves of the
            spine); for the lowest segment relative to the vertical.
        amplitude_deg: largest flexion, lateral bending and axial rotation about neutral.
    """

    name: str
    spacing_m: float
    neutral_deg: float
    amplitude_deg: tuple[float, float, float]


# Amplitudes stay inside the ranges of White & Panjabi, Clinical Biomechanics of the Spine, 1990.
# The lowest row is the sway of the whole trunk over the hips.
SEGMENTS = (
    Segment("sacrum", 0.0, 12.0, (9.0, 8.0, 16.0)),
    Segment("L1", 0.19, -20.0, (20.0, 16.0, 9.0)),
    Segment("T12", 0.072, -3.0, (4.0, 6.0, 3.0)),
    Segment("T6", 0.15, 16.0, (10.0, 14.0, 20.0)),
)
BAND_HZ = (0.15, 0.85)
HIPS_SWAY_M = (0.015, 0.008, 0.02)


@dataclass(frozen=True)
class SpineMotion:
    """A smooth movement of the spine, known at every instant.

    Attributes:
        segments: from the lowest to the highest.
        quiet_s: standing still in the neutral pose lasts until here; then the movement swells
            over as long again.
        amplitudes: (segment + 1, 3, wave) rad, and m in the last row, which moves the hips.
        frequencies_hz: same shape.
        phases: same shape, rad.
    """

    segments: tuple[Segment, ...]
    quiet_s: float
    amplitudes: Array
    frequencies_hz: Array
    phases: Array

    def poses(self, times_s: Array) -> tuple[Array, Array]:
        """Orientation and position of every segment.

        Args:
            times_s: (n,) seconds.

        Returns:
            ``R_world_segment`` (segment, n, 3, 3) and the segments' origins in the world
            (segment, n, 3) in metres.
        """
        angles = self.angles_rad(times_s)
        orientations: list[Array] = []
        origins: list[Array] = []
        for index, segment in enumerate(self.segments):
            # ISB counts extension as positive about z, and people count flexion.
            turns = angles[index].T * [-1.0, 1.0, 1.0]
            relative = Rotation.from_euler("ZXY", turns).as_matrix()
            if index == 0:
                orientations.append(relative)
                origins.append(self._values(times_s)[-1].T)
                continue
            orientation = orientations[-1] @ relative
            half = segment.spacing_m / 2  # the joint lies halfway between neighbours
            origins.append(origins[-1] + half * (orientations[-1][..., 1] + orientation[..., 1]))
            orientations.append(orientation)
        return np.stack(orientations), np.stack(origins)

    def angles_rad(self, times_s: Array) -> Array:
        """Cardan angles of every segment relative to the one below, the lowest to the world.

        Args:
            times_s: (n,) seconds.

        Returns:
            (segment, 3, n) rad: flexion, lateral bending to the right, axial rotation to the left.
        """
        angles = self._values(times_s)[:-1].copy()
        neutral = np.radians([segment.neutral_deg for segment in self.segments])
        angles[:, 0] += neutral[:, None]
        return np.asarray(angles)

    def _values(self, times_s: Array) -> Array:
        """Flexion, lateral bending, axial rotation (rad), then sway (m): (segment + 1, 3, n)."""
        phase = 2 * np.pi * self.frequencies_hz[..., None] * times_s + self.phases[..., None]
        waves = (self.amplitudes[..., None] * np.sin(phase)).sum(axis=2)
        return np.asarray(waves * self._swell(times_s))

    def _swell(self, times_s: Array) -> Array:
        x = np.clip((times_s - self.quiet_s) / self.quiet_s, 0.0, 1.0)
        return np.asarray(x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3))  # smooth to the jerk


def draw_motion(rng: np.random.Generator, quiet_s: float) -> SpineMotion:
    """Draw a movement: every angle a sum of slow sines that reaches its amplitude."""
    peaks = np.radians([segment.amplitude_deg for segment in SEGMENTS])
    peaks = np.vstack([peaks, HIPS_SWAY_M])
    shape = (*peaks.shape, WAVES)
    edges = np.linspace(*BAND_HZ, WAVES + 1)  # one wave per part of the band
    frequencies = rng.uniform(edges[:-1], edges[1:], shape)
    weights = rng.uniform(0.5, 1.0, shape) / frequencies**0.5
    phases = rng.uniform(0, 2 * np.pi, shape)
    amplitudes = peaks[..., None] * weights / weights.sum(axis=2, keepdims=True)
    return SpineMotion(SEGMENTS, quiet_s, amplitudes, frequencies, phases)


def body_rates(before: Array, after: Array, step_s: float) -> Array:
    """Angular velocity in the body's own axes from orientations ``step_s`` either side.

    Args:
        before: (..., 3, 3) ``R_world_body``, ``step_s`` earlier.
        after: (..., 3, 3) ``R_world_body``, ``step_s`` later.
        step_s: seconds.

    Returns:
        (..., 3) rad/s.
    """
    turn = np.swapaxes(before, -1, -2) @ after
    vectors = Rotation.from_matrix(turn.reshape(-1, 3, 3)).as_rotvec() / (2 * step_s)
    return np.asarray(vectors.reshape(*turn.shape[:-2], 3))
