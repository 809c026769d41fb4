"""From what a fit believes of itself to intervals that hold the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_S = 1.0  # residuals further apart than that tell about each other no more
# 95 % of errors: of one number, and of the length of three equal ones over their root sum square.
WITHIN_95 = 1.96
WITHIN_95_OF_THREE = 1.614


@dataclass(frozen=True)
class Widening:
    """How the deviation of a fit becomes one that holds: ``√((factor · sd)² + floor²)``.

    The factors and floors were found on recordings of real sensors with known truth, such that
    95 % of the errors lie inside the interval; ``benchmarks/spine_accuracy.py`` counts it.

    Attributes:
        factor: for what the blocks do not show: errors that last longer than a block.
        floor: what no longer recording would mend.
    """

    factor: float
    floor: float

    def of(self, sd: NDArray[np.float64]) -> NDArray[np.float64]:
        """Widened deviations."""
        return np.hypot(self.factor * sd, self.floor)


OFFSET_S = Widening(1.3, 5e-5)  # the floor: time stamps of video and sensors
MOUNTING_RAD = Widening(1.3, math.radians(0.25 / math.sqrt(3)))  # axes of a gyroscope are skew
BIAS_RAD_S = Widening(2.0, math.radians(0.08 / math.sqrt(3)))  # which scale and skew imitate
ORIENTATION_RAD = Widening(0.85, 0.0)  # the smoother's frames repeat a little less than assumed


def spread(covariance: Tensor, gradients: Tensor) -> Tensor:
    """Covariance that holds although residuals repeat from frame to frame.

    Least squares takes every residual as news. The sum of the gradients over a block of time
    shows how far the blocks really pull apart; their scatter in place of the assumed noise gives
    the cluster-robust (sandwich) covariance of Liang & Zeger, Biometrika 73:13, 1986, which a
    block bootstrap would give in the limit, without solving again.

    Args:
        covariance: (P, P) inverse of the normal equations.
        gradients: (B, P) of the cost, for each block.

    Returns:
        (P, P); never smaller than ``covariance`` in any single parameter.
    """
    blocks = len(gradients)
    scatter = gradients.mT @ gradients * (blocks / max(blocks - 1, 1))
    sandwich = covariance @ scatter @ covariance
    lacking = (covariance.diagonal() - sandwich.diagonal()).clamp_min(0.0)
    return sandwich + torch.diag(lacking)
