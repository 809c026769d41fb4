"""Gyroscopes carried through time: rotation from any instant to any other, and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cis_tasks.spine import so3

# What is wrong with a gyroscope's axes beside the mounting: scale of each, and the angles between
# them; entries (row, column) of an upper triangular matrix that is added to the identity.
SHAPE = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def shape_matrix(shape: Tensor) -> Tensor:
    """(S, 3, 3) that takes measured to true rates, from (S, 6) or (S, 0)."""
    M = torch.eye(3, dtype=shape.dtype, device=shape.device).repeat(len(shape), 1, 1)
    for k, (a, b) in enumerate(SHAPE[: shape.shape[1]]):
        M[:, a, b] += shape[:, k]
    return M


@dataclass(frozen=True)
class Gyro:
    """Several sensors' angular rates in one batch.

    Sensors may differ in rate and length: the shorter ones are padded with zero rate at times
    after their end.

    Attributes:
        time_s: (S, N) sensor time, increasing.
        rate: (S, N, 3) rad/s in sensor axes.
        start_s: (S,) time of each sensor's first sample.
        end_s: (S,) time of each sensor's last sample.
    """

    time_s: Tensor
    rate: Tensor
    start_s: Tensor
    end_s: Tensor

    @classmethod
    def stack(
        cls,
        time_s: Sequence[NDArray[np.float64]],
        rate: Sequence[NDArray[np.float64]],
        device: torch.device | None = None,
    ) -> Gyro:
        """Put (N,) times and (N, 3) rates of several sensors into one batch."""
        longest = max(map(len, time_s))
        times, rates = [], []
        for t, w in zip(time_s, rate, strict=True):
            padding = longest - len(t)
            times.append(np.concatenate([t, t[-1] + np.arange(1, padding + 1)]))
            rates.append(np.concatenate([w, np.zeros((padding, 3))]))
        return cls(
            torch.tensor(np.array(times), device=device),
            torch.tensor(np.array(rates), device=device),
            torch.tensor([t[0] for t in time_s], device=device),
            torch.tensor([t[-1] for t in time_s], device=device),
        )

    def covers(self, time_s: Tensor) -> Tensor:
        """(S, K) whether each time lies within the sensor's recording."""
        return (time_s >= self.start_s[:, None]) & (time_s <= self.end_s[:, None])

    def integrate(self, bias: Tensor, shape: Tensor | None = None) -> Heading:
        """Integrate the rates less (S, 3) ``bias``, rad/s, from the first sample on.

        The rate is taken as linear between samples; a step's rotation is that of its mean rate.
        With (S, 6) ``shape`` the rates are put right for scale and skew first, see ``SHAPE``.
        """
        shaped = shape is not None and shape.shape[1] > 0
        true = self.rate @ shape_matrix(shape).mT if shape is not None and shaped else self.rate
        rate = true - bias[:, None]
        step = (self.time_s[:, 1:] - self.time_s[:, :-1])[..., None]
        steps = so3.exp((rate[:, 1:] + rate[:, :-1]) / 2 * step)
        start = torch.eye(3, dtype=rate.dtype, device=rate.device).expand(len(rate), 1, 3, 3)
        R = torch.cat([start, so3.scan(steps)], 1)
        trapezia = (R[:, 1:] + R[:, :-1]) / 2 * step[..., None]
        lever = torch.cat([torch.zeros_like(start), torch.cumsum(trapezia, 1)], 1)
        if not shaped:
            return Heading(self.time_s, rate, R, lever)
        turned = torch.stack([R[..., :, a] * self.rate[..., b, None] for a, b in SHAPE], -1)
        means = (turned[:, 1:] + turned[:, :-1]) / 2 * step[..., None]
        nothing = torch.zeros_like(means[:, :1])
        return Heading(self.time_s, rate, R, lever, torch.cat([nothing, means.cumsum(1)], 1))


@dataclass(frozen=True)
class Heading:
    """Orientations that integration gave, relative to the first sample.

    Attributes:
        time_s: (S, N) sensor time.
        rate: (S, N, 3) rad/s, bias taken off.
        R: (S, N, 3, 3), takes sensor coordinates at each time to those at the first.
        lever: (S, N, 3, 3) the integral of ``R``, s: a small bias error b rotates ``R`` by
            ``exp(-lever @ b)`` from the left.
        shape_lever: (S, N, 3, 6) the same for a change of scale and skew, but for the sign.
    """

    time_s: Tensor
    rate: Tensor
    R: Tensor
    lever: Tensor
    shape_lever: Tensor | None = None

    def to_shape(self, time_s: Tensor) -> Tensor:
        """(S, K, 3, 6) what a change of scale and skew turns until (S, K) times."""
        if self.shape_lever is None:
            return time_s.new_zeros(*time_s.shape, 3, 0)
        last = self.time_s.shape[1] - 2
        i = (torch.searchsorted(self.time_s, time_s.contiguous(), right=True) - 1).clamp(0, last)
        sensor = torch.arange(len(i), device=i.device)[:, None]
        before, after = self.time_s[sensor, i], self.time_s[sensor, i + 1]
        share = ((time_s - before) / (after - before))[..., None, None]
        return torch.lerp(self.shape_lever[sensor, i], self.shape_lever[sensor, i + 1], share)

    def at(self, time_s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Orientation (S, K, 3, 3), rate (S, K, 3) and lever (S, K, 3, 3) at (S, K) times."""
        last = self.time_s.shape[1] - 2
        i = (torch.searchsorted(self.time_s, time_s.contiguous(), right=True) - 1).clamp(0, last)
        sensor = torch.arange(len(i), device=i.device)[:, None]
        before, after = self.time_s[sensor, i], self.time_s[sensor, i + 1]
        since = (time_s - before)[..., None]
        w0, w1 = self.rate[sensor, i], self.rate[sensor, i + 1]
        rate = w0 + (w1 - w0) * since / (after - before)[..., None]
        R0 = self.R[sensor, i]
        R = R0 @ so3.exp((w0 + rate) / 2 * since)
        return R, rate, self.lever[sensor, i] + R0 * since[..., None]

    def rotation(self, time_s: Tensor) -> Tensor:
        """(S, K, 3, 3) orientations at (S, K) times."""
        return self.at(time_s)[0]
