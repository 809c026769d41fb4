"""Between gyroscope and tag: the small correction that drifts slowly and explains what was seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FAINT = 1e-6  # 1/rad²; keeps the system regular where no tag was ever seen


def smooth(
    time_s: Floats, measured: Floats, information: Floats, walk_rad2_s: float
) -> tuple[Floats, Floats]:
    """The likeliest random walk through noisy measurements, and its covariance.

    Minimises ``Σ (x − measured)ᵀ W (x − measured) + Σ |xₖ₊₁ − xₖ|² / (walk · Δt)``: a
    block-tridiagonal system, solved from both ends (Rauch–Tung–Striebel in information form), so
    that the diagonal of the inverse falls out as well.

    Args:
        time_s: (K,) increasing.
        measured: (S, K, 3) rad; anything where the information is zero.
        information: (S, K, 3, 3) 1/rad².
        walk_rad2_s: variance that the walk gains per second, rad²/s.

    Returns:
        (S, K, 3) the walk, and (S, K, 3, 3) its covariance.
    """
    own = information + FAINT * np.eye(3)
    pull = np.einsum("skij,skj->ski", information, measured)
    variance = walk_rad2_s * np.diff(time_s)
    before, before_pull = _messages(own, pull, variance)
    after, after_pull = _messages(own[:, ::-1], pull[:, ::-1], variance[::-1])
    total = own + before + after[:, ::-1]
    covariance = np.asarray(np.linalg.inv(total), dtype=np.float64)
    walk = np.einsum("skij,skj->ski", covariance, pull + before_pull + after_pull[:, ::-1])
    return np.asarray(walk), covariance


def _messages(own: Floats, pull: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """What each time learns from all before it: information (S, K, 3, 3) and its pull (S, K, 3)."""
    information, towards = np.zeros_like(own), np.zeros_like(pull)
    eye = np.eye(3)
    for k, spread in enumerate(variance):
        known = own[:, k] + information[:, k]
        gain = np.linalg.inv(eye + spread * known)  # = (known⁻¹ + spread)⁻¹ known⁻¹, regular at 0
        information[:, k + 1] = known @ gain
        carried = pull[:, k] + towards[:, k]
        towards[:, k + 1] = np.einsum("sij,sj->si", gain, carried)
    return information, towards
