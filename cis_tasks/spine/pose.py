"""Tag corners to orientations in the camera: both solutions that a plane allows, and how sure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

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
            for corner noise as it was stated, translation marginalised out; 1/rad².
        misfit: (S, K, H) sum of the squared corner residuals over their stated variance.
        error_px2: (S, K, H) sum of the squared corner residuals, px².
        position_m: (S, K, H, 3) of the tag in the camera.
        corners: what was fitted.
    """

    ok: Tensor
    R_camera_tag: Tensor
    information: Tensor
    misfit: Tensor
    error_px2: Tensor
    position_m: Tensor
    corners: Corners

    def near(self, R_camera_tag: Tensor, where: Tensor) -> Poses:
        """What the corners say in the neighbourhood of orientations that are known roughly.

        The tilt of a small tag bends its picture so little that the best pose of a single frame
        lies far off, on either side, and a normal distribution about it misleads. Taken as one
        Gauss–Newton step from where the gyroscope says the tag is, with the position fitted,
        the same corners give an unbiased measurement.

        Args:
            R_camera_tag: (S, K, 3, 3) the orientations.
            where: (S, K) for which tags; the others keep their poses.
        """
        at = self.ok & where
        corners = self.corners.of(at[self.corners.ok])
        R = R_camera_tag[at][:, None]
        p = pick(self.position_m, self.better)[at][:, None]
        step, information, misfit, error_px2, p = _measure_near(corners, R, p)
        new = (R @ so3.exp(step), information, misfit, error_px2, p)
        old = (self.R_camera_tag, self.information, self.misfit, self.error_px2, self.position_m)
        R, information, misfit, error_px2, p = map(partial(_put, at), old, new)
        return Poses(self.ok, R, information, misfit, error_px2, p, self.corners)

    @property
    def better(self) -> Tensor:
        """(S, K) which of both has the smaller residual."""
        return self.misfit.argmin(-1)

    @property
    def noise(self) -> Tensor:
        """Corner noise over the stated one (px where none was), robustly over tags and frames.

        A pose leaves 2 of the 8 coordinates free, so that the squared residuals follow χ² with
        two degrees of freedom, whose median is 1.386.
        """
        residuals = self.misfit.amin(-1)[self.ok]
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
    information: NDArray[np.float64] | None = None,
) -> Poses:
    """Orientations from (S, K, 4, 2) corners in pixels, NaN where a tag was not seen.

    Both solutions of IPPE (Collins & Bartoli, IJCV 109:252, 2014), each refined on the
    reprojection error. The lens distortion is taken out of the corners first.

    Args:
        corners_px: of the tags.
        camera: that saw them.
        tag_size_m: side of the black square.
        device: to work on.
        information: (S, K, 8, 8) on the corners x0, y0, x1, …, 1/px²; left out, every coordinate
            counts with a deviation of 1 px.
    """
    straight = _undistort(corners_px, camera)
    seen, R, p = _both_solutions(straight, camera, tag_size_m)
    ok = torch.tensor(seen, device=device)
    stated = np.broadcast_to(np.eye(8), (int(seen.sum()), 8, 8))
    corners = Corners(
        ok,
        torch.tensor(tag_corners(tag_size_m), device=device),
        torch.tensor(straight[seen], device=device)[:, None],
        torch.tensor(camera.intrinsics, device=device),
        torch.tensor(stated if information is None else information[seen], device=device)[:, None],
    )
    found = _refine(corners, torch.tensor(R, device=device), torch.tensor(p, device=device))
    R_found, marginal, misfit, error_px2, position_m = found
    return _spread(
        corners, R_found, marginal, misfit=misfit, error_px2=error_px2, position_m=position_m
    )


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
class Corners:
    """The M corner quadruples that were seen, in a camera without distortion.

    Attributes:
        ok: (S, K) which these are.
        points_m: (4, 3) in tag axes.
        pixels: (M, 1, 4, 2).
        intrinsics: (3, 3).
        information: (M, 1, 8, 8) 1/px².
    """

    ok: Tensor
    points_m: Tensor
    pixels: Tensor
    intrinsics: Tensor
    information: Tensor

    def of(self, part: Tensor) -> Corners:
        """Those of the M that ``part`` says."""
        return replace(self, pixels=self.pixels[part], information=self.information[part])

    def linearise(self, R: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals (…, 8) px and their derivatives (…, 8, 6) to rotation and position."""
        Y = torch.einsum("...ij,nj->...ni", R, self.points_m) + p[..., None, :]
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
        to_rotation = to_position @ (-R[..., None, :, :] @ so3.hat(self.points_m))
        derivatives = torch.cat([to_rotation, to_position], -1)
        return (projected - self.pixels).flatten(-2), derivatives.flatten(-3, -2)


def _refine(corners: Corners, R: Tensor, p: Tensor) -> tuple[Tensor, ...]:
    """Refined rotations (M, 2, 3, 3), information, misfits, squared errors and positions."""
    ridge = 1e-9 * torch.eye(6, dtype=R.dtype, device=R.device)  # only against exact singularity
    for _ in range(REFINEMENTS):
        r, J = corners.linearise(R, p)
        WJ = corners.information @ J
        normal = WJ.mT @ J
        scale = normal.diagonal(dim1=-2, dim2=-1)[..., None]
        step = -torch.linalg.solve(normal + ridge * scale, WJ.mT @ r[..., None])[..., 0]
        step = step.clamp(-0.3, 0.3)  # rad and m: a step beyond is no refinement
        R, p = R @ so3.exp(step[..., :3]), p + step[..., 3:]
    _, marginal, misfit, error_px2, _ = _marginal_step(corners, R, p)
    return R, marginal, misfit, error_px2, p


def _measure_near(corners: Corners, R: Tensor, p: Tensor) -> tuple[Tensor, ...]:
    """The step from R towards the corners, what it is worth, and how they are missed there."""
    for _ in range(REFINEMENTS):
        r, J = corners.linearise(R, p)
        WJ = corners.information @ J[..., 3:]
        p = p - torch.linalg.solve(WJ.mT @ J[..., 3:], WJ.mT @ r[..., None])[..., 0]
    return _marginal_step(corners, R, p)


def _marginal_step(corners: Corners, R: Tensor, p: Tensor) -> tuple[Tensor, ...]:
    """One step of the rotation with the position free, its information, and the misfits.

    The misfit is what would be left after the step.
    """
    r, J = corners.linearise(R, p)
    WJ = corners.information @ J
    normal, gradient = WJ.mT @ J, (WJ.mT @ r[..., None])[..., 0]
    RR, Rp, pp = normal[..., :3, :3], normal[..., :3, 3:], normal[..., 3:, 3:]
    gain = Rp @ torch.linalg.inv(pp)
    marginal = RR - gain @ Rp.mT
    pull = gradient[..., :3] - (gain @ gradient[..., 3:, None])[..., 0]
    floor = 1e-9 * RR.diagonal(dim1=-2, dim2=-1)
    step = -torch.linalg.solve(marginal + torch.diag_embed(floor), pull[..., None])[..., 0]
    own = (r * (corners.information @ r[..., None])[..., 0]).sum(-1)
    return step, marginal, own + (pull * step).sum(-1), (r**2).sum(-1), p


def _put(at: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """(S, K, H, …) with (M, 1, …) put in for both poses."""
    out = old.clone()
    out[at] = new.expand(-1, 2, *new.shape[2:])
    return out


def _spread(
    corners: Corners,
    R: Tensor,
    information: Tensor,
    *,
    misfit: Tensor,
    error_px2: Tensor,
    position_m: Tensor,
) -> Poses:
    ok = corners.ok.clone()
    finite = torch.isfinite(information).flatten(1).all(-1) & torch.isfinite(misfit).all(-1)
    ok[corners.ok] = finite
    eye = torch.eye(3, dtype=R.dtype, device=R.device).repeat(*ok.shape, 2, 1, 1)
    all_R, all_information = eye.clone(), eye.clone()
    all_misfit = torch.full((*ok.shape, 2), torch.inf, dtype=R.dtype, device=R.device)
    all_error, all_position = all_misfit.clone(), eye[..., 2].clone()
    all_R[ok], all_information[ok] = R[finite], information[finite]
    all_misfit[ok], all_error[ok] = misfit[finite], error_px2[finite]
    all_position[ok] = position_m[finite]
    return Poses(
        ok,
        all_R,
        all_information,
        all_misfit,
        all_error,
        all_position,
        replace(corners.of(finite), ok=ok),
    )
