from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cis_tasks.spine import so3
from cis_tasks.spine.gyro import Gyro

NO_BIAS = torch.zeros(1, 3, dtype=torch.float64)


def wobble(hz: float, duration_s: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    t = np.arange(0, duration_s, 1 / hz)
    rate = sum(
        rng.normal(size=3) * np.sin(2 * np.pi * rng.uniform(0.2, 1.5) * t[:, None] + rng.normal())
        for _ in range(4)
    )
    return t, rate


def test_a_constant_rate_turns_about_its_axis_at_any_time_between_samples():
    t = np.arange(0, 2, 0.01)
    rate = np.tile([0.3, -0.2, 0.9], (len(t), 1))
    at = torch.tensor([[0.0, 0.123456, 1.0, 1.9]])
    R = Gyro.stack([t], [rate]).integrate(NO_BIAS).rotation(at.double())
    expected = Rotation.from_rotvec(np.outer(at[0], [0.3, -0.2, 0.9])).as_matrix()
    np.testing.assert_allclose(R[0].numpy(), expected, atol=1e-7)


def test_the_lever_predicts_what_a_bias_does():
    t, rate = wobble(200, 5, seed=3)
    gyro = Gyro.stack([t], [rate])
    at = torch.linspace(0.1, 4.9, 11, dtype=torch.float64)[None]
    R, _, lever = gyro.integrate(NO_BIAS).at(at)
    bias = torch.tensor([[1e-5, -2e-5, 1.5e-5]], dtype=torch.float64)
    predicted = so3.exp(-(lever @ bias[0])) @ R
    found = gyro.integrate(bias).rotation(at)
    apart = so3.log(predicted.mT @ found).norm(dim=-1).max()
    moved = so3.log(R.mT @ found).norm(dim=-1).max()
    assert float(apart) < 1e-3 * float(moved)


def test_sensors_of_different_rate_and_length_do_not_disturb_each_other():
    slow, fast = wobble(60, 4, seed=1), wobble(400, 2, seed=2)
    both = Gyro.stack([slow[0], fast[0]], [slow[1], fast[1]])
    bias = torch.tensor([[0.01, 0.02, -0.01], [0.0, -0.03, 0.02]], dtype=torch.float64)
    at = torch.tensor([[0.5, 1.7, 3.3], [0.2, 1.0, 1.9]], dtype=torch.float64)
    together = both.integrate(bias).rotation(at)
    for s, (t, rate) in enumerate((slow, fast)):
        alone = Gyro.stack([t], [rate]).integrate(bias[s : s + 1]).rotation(at[s : s + 1])
        np.testing.assert_allclose(together[s].numpy(), alone[0].numpy(), atol=1e-12)


def test_coverage_ends_with_the_last_real_sample():
    slow, fast = wobble(60, 4, seed=1), wobble(400, 2, seed=2)
    both = Gyro.stack([slow[0], fast[0]], [slow[1], fast[1]])
    at = torch.tensor([[-0.1, 0.0, 3.0], [0.0, 1.9, 3.0]], dtype=torch.float64)
    assert both.covers(at).tolist() == [[False, True, True], [True, True, False]]
