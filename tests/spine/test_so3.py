from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cis_tasks.spine import so3

unit = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: math.hypot(*v) > 0.1)
angles = st.one_of(
    st.floats(0, math.pi), st.floats(0, 1e-6), st.floats(math.pi - 1e-6, math.pi - 1e-12)
)


def vector(direction: tuple[float, ...], angle: float) -> torch.Tensor:
    v = torch.tensor(direction, dtype=torch.float64)
    return v / v.norm() * angle


@given(unit, angles)
def test_exp_agrees_with_scipy(direction, angle):
    v = vector(direction, angle)
    expected = Rotation.from_rotvec(v.numpy()).as_matrix()
    np.testing.assert_allclose(so3.exp(v).numpy(), expected, atol=1e-12)


@given(unit, angles)
def test_log_undoes_exp_up_to_half_a_turn(direction, angle):
    R = so3.exp(vector(direction, angle))
    again = so3.exp(so3.log(R))
    np.testing.assert_allclose(again.numpy(), R.numpy(), atol=1e-9)
    assert float(so3.log(R).norm()) == pytest.approx(angle, abs=1e-7)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 64, 100])
def test_scan_gives_every_running_product(n):
    steps = torch.tensor(Rotation.random(2 * n, rng=np.random.default_rng(n)).as_matrix())
    steps = steps.reshape(2, n, 3, 3)
    products = so3.scan(steps)
    running = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    for k in range(n):
        running = running @ steps[:, k]
        np.testing.assert_allclose(products[:, k].numpy(), running.numpy(), atol=1e-12)


def test_project_gives_the_nearest_rotation_even_of_a_reflection():
    R = torch.tensor(Rotation.random(5, rng=np.random.default_rng(0)).as_matrix())
    noise = torch.tensor(np.random.default_rng(1).normal(0, 0.01, (5, 3, 3)))
    near = so3.project(R + noise)
    np.testing.assert_allclose((near @ near.mT).numpy(), np.tile(np.eye(3), (5, 1, 1)), atol=1e-12)
    assert float(so3.log(R.mT @ near).norm(dim=-1).max()) < 0.05
    mirrored = so3.project(torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)))
    assert float(torch.det(mirrored)) == pytest.approx(1.0)


def test_hat_is_the_cross_product():
    a, b = torch.tensor(np.random.default_rng(0).normal(size=(2, 7, 3)))
    np.testing.assert_allclose(
        (so3.hat(a) @ b[..., None])[..., 0].numpy(), torch.linalg.cross(a, b).numpy(), atol=1e-14
    )
