"""Gyroscopes carried through time: rotation from any instant to any other, and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cis_tasks.spine import so3


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

    def integrate(self, bias: Tensor) -> Heading:
        """Integrate the rates less (S, 3) ``bias``, rad/s, from the first sample on.

        The rate is taken as linear between samples; a step's rotation is that of its mean rate.
        """
        rate = self.rate - bias[:, None]
        step = (self.time_s[:, 1:] - self.time_s[:, :-1])[..., None]
        steps = so3.exp((rate[:, 1:] + rate[:, :-1]) / 2 * step)
        start = torch.eye(3, dtype=rate.dtype, device=rate.device).expand(len(rate), 1, 3, 3)
        R = torch.cat([start, so3.scan(steps)], 1)
        trapezia = (R[:, 1:] + R[:, :-1]) / 2 * step[..., None]
        lever = torch.cat([torch.zeros_like(start), torch.cumsum(trapezia, 1)], 1)
        return Heading(self.time_s, rate, R, lever)


@dataclass(frozen=True)
class Heading:
    """Orientations that integration gave, relative to the first sample.

    Attributes:
        time_s: (S, N) sensor time.
        rate: (S, N, 3) rad/s, bias taken off.
        R: (S, N, 3, 3), takes sensor coordinates at each time to those at the first.
        lever: (S, N, 3, 3) the integral of ``R``, s: a small bias error b rotates ``R`` by
            ``exp(-lever @ b)`` from the left.
    """

    time_s: Tensor
    rate: Tensor
    R: Tensor
    lever: Tensor

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
