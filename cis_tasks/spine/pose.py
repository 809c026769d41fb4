"""Tag corners to orientations in the camera: both solutions that a plane allows, and how sure."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cis_tasks.spine import so3
from cis_tasks.spine.rig import Camera

NEAREST_M = 0.02  # nothing focuses nearer; keeps projections finite
REFINEMENTS = 5  # Gauss–Newton steps; IPPE starts within a few of the optimum


@dataclass(frozen=True)
class Poses:
    """Orientations of tags in the camera.

    A plane seen in perspective has two poses that explain it nearly equally well; the second
    dimension H = 2 holds both, and where there is only one it stands twice.

    Attributes:
        ok: (S, K) whether there is a pose.
        R_camera_tag: (S, K, H, 3, 3).
        information: (S, K, H, 3, 3) information on a rotation of the tag from the right, tag axes,
            for corner noise of 1 px, translation marginalised out; 1/rad².
        error_px2: (S, K, H) sum of the squared corner residuals, px².
    """

    ok: Tensor
    R_camera_tag: Tensor
    information: Tensor
    error_px2: Tensor

    @property
    def better(self) -> Tensor:
        """(S, K) which of both has the smaller residual."""
        return self.error_px2.argmin(-1)

    @property
    def corner_sd_px(self) -> Tensor:
        """Corner noise that the residuals show, px, robustly over all tags and frames.

        A pose leaves 2 of the 8 coordinates free, so that the squared residuals follow χ² with
        two degrees of freedom, whose median is 1.386.
        """
        residuals = self.error_px2.amin(-1)[self.ok]
        return (residuals.median() / 1.386).sqrt()


def pick(values: Tensor, choice: Tensor) -> Tensor:
    """Take (S, K, …) of (S, K, H, …) values by (S, K) choice."""
    index = choice.reshape(*choice.shape, *[1] * (values.dim() - 2))
    return values.gather(2, index.expand(*choice.shape, 1, *values.shape[3:]))[:, :, 0]


def tag_corners(size_m: float) -> NDArray[np.float64]:
    """(4, 3) corners in tag axes: x right, y up, z out of the tag; from top left clockwise."""
    h = size_m / 2
    return np.array([[-h, h, 0.0], [h, h, 0.0], [h, -h, 0.0], [-h, -h, 0.0]])


def find_poses(
    corners_px: NDArray[np.float64],
    camera: Camera,
    tag_size_m: float,
    device: torch.device | None = None,
) -> Poses:
    """Orientations from (S, K, 4, 2) corners in pixels, NaN where a tag was not seen.

    Both solutions of IPPE (Collins & Bartoli, IJCV 109:252, 2014), each refined on the
    reprojection error. The lens distortion is taken out of the corners first.
    """
    corners = _undistort(corners_px, camera)
    ok, R, p = _both_solutions(corners, camera, tag_size_m)
    problem = _Reprojection(
        torch.tensor(tag_corners(tag_size_m), device=device),
        torch.tensor(corners[ok], device=device)[:, None],
        torch.tensor(camera.intrinsics, device=device),
    )
    found = _refine(problem, torch.tensor(R, device=device), torch.tensor(p, device=device))
    return _spread(torch.tensor(ok, device=device), *found)


def _undistort(corners_px: NDArray[np.float64], camera: Camera) -> NDArray[np.float64]:
    if not any(camera.distortion):
        return corners_px
    seen = np.isfinite(corners_px).all((-1, -2))
    out = np.full_like(corners_px, np.nan)
    K = camera.intrinsics
    if seen.any():
        points = np.ascontiguousarray(corners_px[seen].reshape(-1, 1, 2))
        straight = cv2.undistortPoints(points, K, np.array(camera.distortion), P=K)
        out[seen] = straight.reshape(-1, 4, 2)
    return out


def _both_solutions(
    corners: NDArray[np.float64], camera: Camera, tag_size_m: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Which of the (S, K) corners have a pose, and those M poses: (M, 2, 3, 3) and (M, 2, 3)."""
    ok = np.asarray(np.isfinite(corners).all((2, 3)))
    candidates = [_ippe(seen, camera, tag_size_m) for seen in corners[ok]]
    ok[ok] = [pair is not None for pair in candidates]
    pairs = [pair for pair in candidates if pair is not None]
    R = np.array([pair[0] for pair in pairs]).reshape(-1, 2, 3, 3)
    p = np.array([pair[1] for pair in pairs]).reshape(-1, 2, 3)
    return ok, R, p


def _ippe(
    corners: NDArray[np.float64], camera: Camera, tag_size_m: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    n, vectors, positions, _ = cv2.solvePnPGeneric(
        tag_corners(tag_size_m),
        np.ascontiguousarray(corners),
        camera.intrinsics,
        None,
        flags=cv2.SOLVEPNP_IPPE_SQUARE,
    )
    both = [0, n - 1]
    R = np.array([cv2.Rodrigues(vectors[h])[0] for h in both if n])
    p = np.array([np.ravel(positions[h]) for h in both if n])
    good = n > 0 and np.isfinite(R).all() and np.isfinite(p).all() and p[:, 2].min() > NEAREST_M
    return (R, p) if good else None


@dataclass(frozen=True)
class _Reprojection:
    points: Tensor  # (4, 3) tag axes, m
    pixels: Tensor  # (M, 1, 4, 2)
    intrinsics: Tensor  # (3, 3)

    def linearise(self, R: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals (…, 8) px and their derivatives (…, 8, 6) to rotation and position."""
        Y = torch.einsum("...ij,nj->...ni", R, self.points) + p[..., None, :]
        x, y, z = Y[..., 0], Y[..., 1], Y[..., 2].clamp_min(NEAREST_M)
        fx, fy = self.intrinsics[0, 0], self.intrinsics[1, 1]
        o = torch.zeros_like(z)
        projected = torch.stack([fx * x / z, fy * y / z], -1) + self.intrinsics[:2, 2]
        to_position = torch.stack(
            [
                torch.stack([fx / z, o, -fx * x / z**2], -1),
                torch.stack([o, fy / z, -fy * y / z**2], -1),
            ],
            -2,
        )
        to_rotation = to_position @ (-R[..., None, :, :] @ so3.hat(self.points))
        derivatives = torch.cat([to_rotation, to_position], -1)
        return (projected - self.pixels).flatten(-2), derivatives.flatten(-3, -2)


def _refine(problem: _Reprojection, R: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Refined rotations (M, 2, 3, 3), their information, and squared errors (M, 2)."""
    ridge = 1e-9 * torch.eye(6, dtype=R.dtype, device=R.device)  # only against exact singularity
    for _ in range(REFINEMENTS):
        r, J = problem.linearise(R, p)
        normal = J.mT @ J
        scale = normal.diagonal(dim1=-2, dim2=-1)[..., None]
        step = -torch.linalg.solve(normal + ridge * scale, J.mT @ r[..., None])[..., 0]
        step = step.clamp(-0.3, 0.3)  # rad and m: a step beyond is no refinement
        R, p = R @ so3.exp(step[..., :3]), p + step[..., 3:]
    r, J = problem.linearise(R, p)
    normal = J.mT @ J
    RR, Rp, pp = normal[..., :3, :3], normal[..., :3, 3:], normal[..., 3:, 3:]
    return R, RR - Rp @ torch.linalg.solve(pp, Rp.mT), (r**2).sum(-1)


def _spread(ok: Tensor, R: Tensor, information: Tensor, error: Tensor) -> Poses:
    finite = torch.isfinite(information).flatten(1).all(-1) & torch.isfinite(error).all(-1)
    at = ok.clone()
    ok[at] = finite
    eye = torch.eye(3, dtype=R.dtype, device=R.device).repeat(*ok.shape, 2, 1, 1)
    all_R, all_information = eye.clone(), eye.clone()
    all_error = torch.full((*ok.shape, 2), torch.inf, dtype=R.dtype, device=R.device)
    all_R[ok], all_information[ok] = R[finite], information[finite]
    all_error[ok] = error[finite]
    return Poses(ok, all_R, all_information, all_error)
