from __future__ import annotations

import numpy as np

from cis_tasks.spine.smooth import FAINT, smooth

WALK = 0.02


def problem(seed: int, K: int = 25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    time_s = np.cumsum(rng.uniform(0.02, 0.2, K))
    root = rng.normal(size=(2, K, 3, 3))
    information = root @ root.mT * 30
    information[:, 7:12] = 0
    return time_s, rng.normal(size=(2, K, 3)), information


def test_the_walk_is_the_least_squares_solution_and_its_covariance_the_inverse():
    time_s, measured, information = problem(0)
    walk, covariance = smooth(time_s, measured, information, WALK)
    K = len(time_s)
    for s in range(2):
        H = np.zeros((3 * K, 3 * K))
        for k in range(K):
            H[3 * k : 3 * k + 3, 3 * k : 3 * k + 3] += information[s, k] + FAINT * np.eye(3)
        for k, dt in enumerate(np.diff(time_s)):
            tie = np.kron(np.array([[1, -1], [-1, 1]]), np.eye(3)) / (WALK * dt)
            H[3 * k : 3 * k + 6, 3 * k : 3 * k + 6] += tie
        pull = np.einsum("kij,kj->ki", information[s], measured[s]).ravel()
        np.testing.assert_allclose(walk[s].ravel(), np.linalg.solve(H, pull), atol=1e-8)
        inverse = np.linalg.inv(H)
        for k in range(K):
            block = inverse[3 * k : 3 * k + 3, 3 * k : 3 * k + 3]
            np.testing.assert_allclose(covariance[s, k], block, atol=1e-8)


def test_where_nothing_is_measured_it_grows_less_certain():
    time_s, measured, information = problem(1)
    _, covariance = smooth(time_s, measured, information, WALK)
    sd = np.trace(covariance, axis1=-2, axis2=-1)
    assert (sd[:, 9] > sd[:, 6]).all()
    assert (sd[:, 9] > sd[:, 12]).all()
