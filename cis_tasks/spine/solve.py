"""The solver: mounting, bias and clocks that make gyroscopes and tags agree, all at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cis_tasks.spine import so3
from cis_tasks.spine.align import Start
from cis_tasks.spine.gyro import SHAPE, Gyro
from cis_tasks.spine.options import Options
from cis_tasks.spine.pose import Poses, pick
from cis_tasks.spine.uncertainty import BLOCK_S, spread

LEAST_NOISE = 0.05  # of the corners, over the stated one: no detector is better
RELINEARISATIONS = 2  # the first moves small tags by a degree, the second by hundredths
CONVERGED = 1e-7  # rad, rad/s and s
WORST_DAMPING = 1e6
UNKNOWN = 1e-2  # 1/rad², 1/s²: what is not determined at all gets a deviation of 10


@dataclass(frozen=True)
class State:
    """What is solved for. Sensor time is ``t + offset_s + rate_error · (t − mid_s)``.

    Attributes:
        R_camera_start: (S, L, 3, 3), sensor coordinates at the first sample to the camera's, as
            they hold in each leg of the session.
        R_sensor_tag: (S, 3, 3), tag coordinates to sensor coordinates.
        bias: (S, 3) rad/s.
        shape: (S, 6) scale and skew of the gyroscope's axes, see ``gyro.SHAPE``; (S, 0) where
            they are taken as perfect.
        offset_s: () sensor time minus video time at ``mid_s``.
        rate_error: () relative rate of the sensors' clock, less 1.
        mid_s: video time that the offset refers to.
    """

    R_camera_start: Tensor
    R_sensor_tag: Tensor
    bias: Tensor
    shape: Tensor
    offset_s: Tensor
    rate_error: Tensor
    mid_s: float

    def sensor_time_s(self, time_s: Tensor) -> Tensor:
        """Video times as the sensors' clock shows them."""
        return time_s + self.offset_s + self.rate_error * (time_s - self.mid_s)

    def moved(self, step: Tensor) -> State:
        """The state one step on: S blocks of starts, shape, mounting, bias; then offset, rate."""
        own = step[:-2].reshape(len(self.bias), -1)
        end = own.shape[1] - 6
        begin = end - self.shape.shape[1]
        starts = own[:, :begin].reshape(len(own), -1, 3)
        return replace(
            self,
            R_camera_start=so3.exp(starts) @ self.R_camera_start,
            R_sensor_tag=self.R_sensor_tag @ so3.exp(own[:, -6:-3]),
            bias=self.bias + own[:, -3:],
            shape=self.shape + own[:, begin:end],
            offset_s=self.offset_s + step[-2],
            rate_error=self.rate_error + step[-1],
        )


@dataclass(frozen=True)
class Solution:
    """What the solver found, with its evidence.

    Attributes:
        state: the parameters.
        covariance: (P, P), see ``uncertainty.spread``; in the order of ``State.moved``.
        R_camera_tag: (S, K, 3, 3) as the gyroscope carries it, within each leg.
        rate: (S, K, 3) rad/s, sensor axes, bias taken off.
        residual: (S, K, 3) rotation vector from the tag as seen to the tag as carried, tag axes;
            of the pose that suits the gyroscope better.
        information: (S, K, 3, 3) on the residual.
        chi2: (S, K) squared residual in its standard deviations.
        weight: (S, K) robust weight; 0 where there is no pose.
        used: (S, K) frames with a pose and a recording.
        choice: (S, K) which of both poses.
        corner_noise: corner noise that was assumed, over the stated one.
        iterations: that it took.
        converged: whether it came to rest.
    """

    state: State
    covariance: Tensor
    R_camera_tag: Tensor
    rate: Tensor
    residual: Tensor
    information: Tensor
    chi2: Tensor
    weight: Tensor
    used: Tensor
    choice: Tensor
    corner_noise: float
    iterations: int
    converged: bool


def solve(time_s: Tensor, poses: Poses, gyro: Gyro, start: Start, options: Options) -> Solution:
    """Robust least squares over all sensors and frames (Levenberg–Marquardt, Cauchy weights).

    The rate is integrated from a sensor's first sample; every seen tag then measures the sum of
    start orientation, integrated rotation and mounting. As a bias wanders, a long session is cut
    into legs that each have a start orientation of their own. Of the two poses that a tag allows,
    each evaluation takes the one that the gyroscope supports. Derivatives are closed-form.

    Args:
        time_s: (S, K) video time at which each tag was exposed.
        poses: the tags' orientations.
        gyro: the sensors, around the video.
        start: from the alignment.
        options: tunables.
    """
    noise = max(float(poses.noise), LEAST_NOISE)
    problem = _Problem.pose(time_s, poses, gyro, start=start, options=options, noise=noise)
    solution = _descend(problem, problem.start(start), options)
    for _ in range(RELINEARISATIONS):
        close = solution.used & (solution.chi2 < options.outlier_chi2)
        if float(close.sum()) < (1 - options.max_outlier_share) * float(solution.used.sum()):
            break  # nothing to hold on to: let the disagreement stand as it is
        nearer = poses.near(solution.R_camera_tag, close)
        problem = replace(problem, poses=nearer, information=_information(nearer, noise, options))
        solution = _descend(problem, solution.state, options)
    return solution


def _information(poses: Poses, noise: float, options: Options) -> Tensor:
    """(S, K, H, 3, 3) with the real corner noise, and a floor under the error."""
    eye = torch.eye(3, dtype=poses.information.dtype, device=poses.information.device)
    floor = np.deg2rad(options.orientation_floor_deg) ** 2 * eye
    covariance = torch.linalg.inv(poses.information / noise**2 + 1e-6 * eye) + floor
    information: Tensor = torch.linalg.inv(covariance)
    return information


def _descend(problem: _Problem, state: State, options: Options) -> Solution:
    now = problem.evaluate(state)
    damping, iterations, converged = 1e-4, 0, False
    while iterations < options.max_iterations and damping < WORST_DAMPING and not converged:
        iterations += 1
        normal, gradient = problem.normal_equations(state, now)
        step = _damped_step(normal, gradient, damping)
        trial = state.moved(step)
        then = problem.evaluate(trial)
        converged = bool(step.abs().max() < CONVERGED)
        if then.cost <= now.cost:
            state, now, damping = trial, then, damping / 10
        else:
            damping *= 10
    normal, _ = problem.normal_equations(state, now)
    covariance = spread(torch.linalg.inv(normal), problem.block_gradients(state, now))
    return problem.conclude(state, now, covariance, iterations, converged)


def _damped_step(normal: Tensor, gradient: Tensor, damping: float) -> Tensor:
    step: Tensor = -torch.linalg.solve(normal + damping * torch.diag(normal.diagonal()), gradient)
    return step


@dataclass(frozen=True)
class _Evaluation:
    heading: Tensor  # (S, K, 3, 3)
    rate: Tensor  # (S, K, 3)
    lever: Tensor  # (S, K, 3, 3)
    shape_lever: Tensor  # (S, K, 3, 0 or 6)
    R_camera_tag: Tensor  # (S, K, 3, 3)
    residual: Tensor  # (S, K, 3)
    information: Tensor  # (S, K, 3, 3)
    chi2: Tensor  # (S, K)
    choice: Tensor  # (S, K)
    cost: float


@dataclass(frozen=True)
class _Problem:
    time_s: Tensor
    poses: Poses
    gyro: Gyro
    information: Tensor  # (S, K, H, 3, 3) with the real corner noise and the floor
    used: Tensor
    corner_noise: float
    leg: Tensor  # (S, K) which leg of the session each frame belongs to
    legs: int
    shapes: int  # parameters of each gyroscope's scale and skew
    prior: Tensor  # (P,) information; on bias and rate, and a trace of it on all else
    robust_chi2: float
    mid_s: float

    @classmethod
    def pose(
        cls,
        time_s: Tensor,
        poses: Poses,
        gyro: Gyro,
        *,
        start: Start,
        options: Options,
        noise: float,
    ) -> _Problem:
        used = poses.ok & gyro.covers(time_s + start.offset_s)
        since = time_s - time_s.min()
        legs = max(1, round(float(since.max()) / options.leg_s))
        leg = (since * (legs / since.max())).long().clamp(max=legs - 1)
        shapes = len(SHAPE) if options.max_gyro_shape else 0
        own = time_s.new_full((len(time_s), 3 * legs + shapes + 6), UNKNOWN)
        own[:, 3 * legs : -6] = 1 / max(options.max_gyro_shape, 1e-9) ** 2
        own[:, -3:] = 1 / np.deg2rad(options.max_bias_deg_s) ** 2
        shared = time_s.new_tensor([UNKNOWN, 1 / (options.max_rate_ppm * 1e-6) ** 2])
        return cls(
            time_s=time_s,
            poses=poses,
            gyro=gyro,
            information=_information(poses, noise, options),
            used=used,
            corner_noise=noise,
            leg=leg,
            legs=legs,
            shapes=shapes,
            prior=torch.cat([own.flatten(), shared]),
            robust_chi2=options.robust_chi2,
            mid_s=float(time_s[used].mean()),
        )

    def start(self, start: Start) -> State:
        return State(
            start.R_camera_start[:, None].repeat(1, self.legs, 1, 1),
            start.R_sensor_tag,
            start.bias,
            self.time_s.new_zeros(len(self.time_s), self.shapes),
            self.time_s.new_tensor(start.offset_s),
            self.time_s.new_tensor(0.0),
            self.mid_s,
        )

    def evaluate(self, state: State) -> _Evaluation:
        carried = self.gyro.integrate(state.bias, state.shape)
        sensor_s = state.sensor_time_s(self.time_s)
        heading, rate, lever = carried.at(sensor_s)
        R = self._starts(state) @ heading @ state.R_sensor_tag[:, None]
        both = so3.log(self.poses.R_camera_tag.mT @ R[:, :, None])
        chi2 = torch.einsum("skhi,skhij,skhj->skh", both, self.information, both)
        choice = (chi2 + self.poses.misfit / self.corner_noise**2).argmin(-1)
        least = pick(chi2, choice)
        loss = self.robust_chi2 * torch.log1p(least / self.robust_chi2)
        cost = float(
            (loss * self.used).sum() + (self.prior * self._prior_offsets(state) ** 2).sum()
        )
        return _Evaluation(
            heading,
            rate,
            lever,
            carried.to_shape(sensor_s),
            R,
            pick(both, choice),
            pick(self.information, choice),
            least,
            choice,
            cost,
        )

    def _starts(self, state: State) -> Tensor:
        """(S, K, 3, 3) the start orientation that holds for each frame."""
        sensor = torch.arange(len(self.leg), device=self.leg.device)[:, None]
        return state.R_camera_start[sensor, self.leg]

    def _prior_offsets(self, state: State) -> Tensor:
        """What the prior pulls to zero, in the order of the parameters."""
        own = state.bias.new_zeros(len(state.bias), 3 * self.legs + self.shapes + 6)
        own[:, 3 * self.legs : -6] = state.shape
        own[:, -3:] = state.bias
        shared = torch.stack([torch.zeros_like(state.rate_error), state.rate_error])
        return torch.cat([own.flatten(), shared])

    def _weights(self, now: _Evaluation) -> Tensor:
        return self.used / (1 + now.chi2 / self.robust_chi2)

    def _derivatives(self, state: State, now: _Evaluation) -> Tensor:
        """(S, K, 3, P of one sensor + 2) of the residual, for residuals that are small.

        A rotation e of the camera from the left turns the tag by Rᵀe from the right, and so on
        down the chain; a time step turns it by the rate in tag axes.
        """
        back = now.R_camera_tag.mT
        eye = torch.eye(3, dtype=back.dtype, device=back.device).expand_as(back)
        mine = torch.nn.functional.one_hot(self.leg, self.legs).to(back.dtype)
        to_starts = (mine[:, :, None, :, None] * back[:, :, :, None, :]).flatten(-2)
        to_start = back @ self._starts(state)
        to_shape, to_bias = to_start @ now.shape_lever, -to_start @ now.lever
        to_time = (now.rate @ state.R_sensor_tag)[..., None]
        since_mid = (self.time_s - self.mid_s)[..., None, None]
        return torch.cat([to_starts, to_shape, eye, to_bias, to_time, to_time * since_mid], -1)

    def normal_equations(self, state: State, now: _Evaluation) -> tuple[Tensor, Tensor]:
        """Matrix and gradient; only offset and rate tie the sensors together."""
        J = self._derivatives(state, now)
        WJ = self._weights(now)[..., None, None] * now.information @ J
        H = torch.einsum("skia,skib->sab", J, WJ)
        g = torch.einsum("skia,ski->sa", WJ, now.residual)
        own, shared = slice(0, -2), slice(-2, None)
        n = len(H) * (H.shape[1] - 2)
        normal = H.new_zeros(n + 2, n + 2)
        normal[:n, :n] = torch.block_diag(*H[:, own, own])  # type: ignore[no-untyped-call]
        normal[:n, n:] = H[:, own, shared].reshape(n, 2)
        normal[n:, :n] = normal[:n, n:].mT
        normal[n:, n:] = H[:, shared, shared].sum(0)
        gradient = torch.cat([g[:, own].flatten(), g[:, shared].sum(0)])
        return normal + torch.diag(self.prior), gradient + self.prior * self._prior_offsets(state)

    def block_gradients(self, state: State, now: _Evaluation) -> Tensor:
        """(B, P) the gradient of the cost, block of time by block of time."""
        WJ = self._weights(now)[..., None, None] * now.information @ self._derivatives(state, now)
        each = torch.einsum("skia,ski->ska", WJ, now.residual)
        since = self.time_s - self.time_s.min()
        block = (since / BLOCK_S).long()
        sums = each.new_zeros(int(block.max()) + 1, *each.shape[::2])
        sensor = torch.arange(len(each), device=each.device)[:, None].expand_as(block)
        sums.index_put_((block, sensor), each, accumulate=True)
        own, shared = sums[..., :-2].flatten(1), sums[..., -2:].sum(1)
        return torch.cat([own, shared], 1)

    def conclude(
        self,
        state: State,
        now: _Evaluation,
        covariance: Tensor,
        iterations: int,
        converged: bool,
    ) -> Solution:
        return Solution(
            state=state,
            covariance=covariance,
            R_camera_tag=now.R_camera_tag,
            rate=now.rate,
            residual=now.residual,
            information=now.information,
            chi2=now.chi2,
            weight=self._weights(now),
            used=self.used,
            choice=now.choice,
            corner_noise=self.corner_noise,
            iterations=iterations,
            converged=converged,
        )
