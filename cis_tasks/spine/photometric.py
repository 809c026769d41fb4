"""Tag corners from the picture itself: the whole printed pattern fitted to the pixels, in batches.

A detector looks at the outline of a tag; the pattern inside has many more edges. Here a model of
the printed tag, blurred and lit, is fitted to the grey values by Gauss–Newton, for many tags at
once, in single precision, on whatever device torch has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cis_tasks.spine.rig import Family

GRID = 32  # samples of a picture along each side: as many pixels as a 30 px tag has
BATCH = 256  # tags at once; their derivatives take 15 MB, within a processor's caches
STEPS = 6
BLUR_PX = 0.8  # standard deviation of lens and pixel; the fit starts here
BLUR_PRIOR = 0.5  # of its logarithm, so that a tag without detail cannot run away
CLEAR = 2.0  # blurs that a sample keeps from the margin's outer edge: beyond it lies anything
LEAST_CLEAR, MOST_CLEAR = 0.28, 0.8  # cells; margins are cut unevenly
OUTLIER = 25.0  # grey levels, from where a sample counts less (Huber): a finger, a highlight
FURTHEST = 0.6  # cells that a corner may move in all; a fit that went further is no refinement
LEAST_NOISE = 1.0  # grey level: the rounding of the values, and a bit
PARAMETERS = 12

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Refined:
    """Corners with what the pixels tell about them.

    Attributes:
        corners_px: (M, 4, 2); NaN where the fit failed.
        information: (M, 8, 8) on the corners x0, y0, x1, … for the noise that the pixels showed,
            1/px².
    """

    corners_px: Floats
    information: Floats


@dataclass(frozen=True)
class _Patches:
    """Samples of the pictures: on a square grid around each tag."""

    values: Tensor  # (M, GRID²)
    x: Tensor  # (M, GRID²) px from the first corner's whole pixel
    y: Tensor
    codes: Tensor  # (M, cells, cells) 0 black, 1 white, with the margin


@dataclass(frozen=True)
class _Fit:
    H: Tensor  # (M, 3, 3) cells, from the tag's centre, to pixels
    light: Tensor  # (M, 2) gain and offset, grey levels
    log_blur: Tensor  # (M, 2) of the blur across and along, over BLUR_PX

    def moved(self, step: Tensor) -> _Fit:
        d = step.unbind(-1)
        o = torch.zeros_like(d[0])
        turn = torch.stack([d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], o], -1)
        eye = torch.eye(3, dtype=step.dtype, device=step.device)
        return _Fit(
            self.H @ (eye + turn.reshape(-1, 3, 3)),
            self.light + step[:, 8:10],
            self.log_blur + step[:, 10:12],
        )


class Refiner:
    """Collects the tags of a video, and refines them a batch at a time."""

    def __init__(self, family: Family, tags: Sequence[int], device: torch.device) -> None:
        self._codes = torch.tensor(_codes(family, tags), dtype=torch.float32, device=device)
        self._device = device
        self._waiting: list[tuple[int, Floats, NDArray[np.int64], int, NDArray[np.uint8]]] = []
        self._done: list[Refined] = []

    def offer(self, tag: int, corners_px: Floats, grey: NDArray[np.uint8]) -> None:
        """Take the tag with index ``tag`` of the family's, at (4, 2) corners in a picture."""
        origin, stride = _grid(corners_px)
        samples = _sample(grey, origin, stride)
        self._waiting.append((tag, corners_px, origin, stride, samples))
        if len(self._waiting) == BATCH:
            self._flush()

    def finish(self) -> Refined:
        """Everything that was offered, refined, in that order."""
        self._flush()
        nothing = Refined(np.empty((0, 4, 2)), np.empty((0, 8, 8)))
        parts = self._done or [nothing]
        return Refined(
            np.concatenate([part.corners_px for part in parts]),
            np.concatenate([part.information for part in parts]),
        )

    def _flush(self) -> None:
        if not self._waiting:
            return
        tags, corners, origins, strides, samples = zip(*self._waiting, strict=True)
        self._waiting = []
        self._done.append(
            _refine(
                self._codes[list(tags)],
                np.array(corners),
                np.array(origins),
                np.array(strides),
                torch.tensor(np.array(samples), device=self._device),
            )
        )


def _codes(family: Family, tags: Sequence[int]) -> NDArray[np.float32]:
    """(tag, cells, cells) the printed cells with border and white margin."""
    whole = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_APRILTAG_{family}"))
    side = whole.markerSize + 2
    printed = [cv2.aruco.generateImageMarker(whole, tag, side) for tag in tags]
    return np.array([np.pad(p > 127, 1, constant_values=True) for p in printed], np.float32)


def _grid(corners_px: Floats) -> tuple[NDArray[np.int64], int]:
    low, high = corners_px.min(0), corners_px.max(0)
    stride = max(1, math.ceil(float((high - low).max()) * 1.2 / GRID))
    origin = np.round((low + high) / 2 - stride * (GRID - 1) / 2).astype(np.int64)
    return origin, stride


def _sample(grey: NDArray[np.uint8], origin: NDArray[np.int64], stride: int) -> NDArray[np.uint8]:
    """The picture on the grid; beyond its edge 0, which no fit takes for a white margin."""
    height, width = grey.shape
    x, y = (origin[:, None] + stride * np.arange(GRID)).clip(0, [[width - 1], [height - 1]])
    return np.asarray(grey[y[:, None], x])


def _refine(
    codes: Tensor,
    corners_px: Floats,
    origins: NDArray[np.int64],
    strides: NDArray[np.int64],
    samples: Tensor,
) -> Refined:
    device, kind = codes.device, codes.dtype
    # Pixels count from each grid's middle: single precision holds those to a ten-thousandth.
    middle = origins + strides[:, None] * (GRID - 1) // 2
    first = torch.tensor(origins - middle, dtype=kind, device=device)
    steps = torch.tensor(strides, dtype=kind, device=device)[:, None] * torch.arange(
        GRID, dtype=kind, device=device
    )
    x = (first[:, :1] + steps)[:, None, :].expand(-1, GRID, GRID).flatten(1)
    y = (first[:, 1:] + steps)[:, :, None].expand(-1, GRID, GRID).flatten(1)
    patches = _Patches(samples.to(kind).flatten(1), x, y, codes)
    side = codes.shape[-1] - 2
    start = torch.tensor(corners_px - middle[:, None], dtype=kind, device=device)
    fit = _Fit(_homography(start, side), _light(patches), torch.zeros_like(start[:, :2, 0]))
    for _ in range(STEPS):
        normal, gradient, _ = _normal_equations(patches, fit)
        fit = fit.moved(-_solve(normal, gradient))
    normal, _, noise = _normal_equations(patches, fit)
    return _conclude(fit, normal, noise, start=start, middle=middle, side=side)


def _light(patches: _Patches) -> Tensor:
    """Gain and offset from the darkest and the brightest tenth."""
    dark, bright = torch.quantile(
        patches.values, patches.values.new_tensor([0.1, 0.9]), dim=-1
    ).unbind()
    return torch.stack([(bright - dark).clamp_min(10.0), dark], -1)


def _homography(corners: Tensor, side: int) -> Tensor:
    """(M, 3, 3) from cells about the tag's centre to the pixels of (M, 4, 2) corners."""
    rows = []
    for (a, b), corner in zip(_square(side), corners.double().unbind(1), strict=True):
        u, v = corner.unbind(-1)
        one, o = torch.ones_like(u), torch.zeros_like(u)
        rows.append(torch.stack([a * one, b * one, one, o, o, o, -a * u, -b * u], -1))
        rows.append(torch.stack([o, o, o, a * one, b * one, one, -a * v, -b * v], -1))
    h = torch.linalg.solve(torch.stack(rows, 1), corners.flatten(1).double())
    return torch.cat([h, torch.ones_like(h[:, :1])], 1).reshape(-1, 3, 3).to(corners.dtype)


def _normal_equations(patches: _Patches, fit: _Fit) -> tuple[Tensor, Tensor, Tensor]:
    """(M, 12, 12), (M, 12) and the noise (M,) that the residuals show, grey levels.

    Parameters: a change of the homography from the right (8), gain, offset, two log blurs.
    """
    blur = _blur_cells(fit)
    a, b, inside = _in_cells(patches, fit.H, blur)
    model, slopes = _blurred(patches.codes, a, b, blur)
    gain, offset = fit.light[:, :1], fit.light[:, 1:]
    residual = gain * model + offset - patches.values
    to_a, to_b, to_blur_a, to_blur_b = (gain * slope for slope in slopes)
    # A pixel's place in the tag moves against the homography's change d: by -(d X), dehomogenised.
    along = to_a * a + to_b * b
    J = torch.stack(
        [
            -to_a * a, -to_a * b, -to_a, -to_b * a, -to_b * b, -to_b, along * a, along * b,
            model, torch.ones_like(model), to_blur_a, to_blur_b,
        ],
        -1,
    )  # fmt: skip
    weight = inside / (residual.abs() / OUTLIER).clamp_min(1.0)
    WJ = weight[..., None] * J
    normal = WJ.mT @ J
    gradient = (WJ.mT @ residual[..., None])[..., 0]
    count = (inside.sum(-1) - PARAMETERS).clamp_min(1.0)
    noise = ((weight * residual**2).sum(-1) / count).sqrt().clamp_min(LEAST_NOISE)
    pull = (noise / BLUR_PRIOR) ** 2
    normal[:, 10, 10] += pull
    normal[:, 11, 11] += pull
    gradient[:, 10:] += pull[:, None] * fit.log_blur
    return normal, gradient, noise


def _in_cells(patches: _Patches, H: Tensor, blur: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the samples lie in the tag, and which of them are on it (1) or not (0)."""
    back = torch.linalg.inv(H)
    p = back[:, :, 0, None] * patches.x[:, None] + back[:, :, 1, None] * patches.y[:, None]
    a, b, w = (p + back[:, :, 2, None]).unbind(1)
    ahead = w > 1e-3
    w = torch.where(ahead, w, torch.ones_like(w))
    a, b = a / w, b / w
    reach = patches.codes.shape[-1] / 2 - (CLEAR * blur).clamp(LEAST_CLEAR, MOST_CLEAR)
    inside = ahead & (a.abs() < reach[:, :1]) & (b.abs() < reach[:, 1:])
    return a.clamp(-20, 20), b.clamp(-20, 20), inside.to(a.dtype)


def _blur_cells(fit: _Fit) -> Tensor:
    """(M, 2) blur across and along the tag, in cells: that of the picture, seen in the tag."""
    H = fit.H
    scale = H[:, 2, 2, None, None]
    J = (H[:, :2, :2] / scale) - (H[:, :2, 2:] @ H[:, 2:, :2]) / scale**2
    back = torch.linalg.inv(J)
    blur: Tensor = BLUR_PX * fit.log_blur.clamp(-1.5, 2.0).exp() * back.norm(dim=-1)
    return blur


def _blurred(
    codes: Tensor, a: Tensor, b: Tensor, blur: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The blurred pattern (M, P), and its slopes across, along, and to both log blurs."""
    across, to_across, to_blur_across = _steps(a, blur[:, :1], codes.shape[-1])
    along, to_along, to_blur_along = _steps(b, blur[:, 1:], codes.shape[-1])
    turned = codes.mT  # (M, column, row)
    rows = across @ turned  # (M, P, row): each row's pattern at the sample's place across
    model = (rows * along).sum(-1)
    slopes = (
        ((to_across @ turned) * along).sum(-1),
        (rows * to_along).sum(-1),
        ((to_blur_across @ turned) * along).sum(-1),
        (rows * to_blur_along).sum(-1),
    )
    return model, slopes


def _steps(at: Tensor, blur: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """How much of each cell (M, P, cells) a blurred sample sees, and its two slopes."""
    edges = torch.arange(cells + 1, dtype=at.dtype, device=at.device) - cells / 2
    # The outermost edges lie far away: white paper goes on beyond what is used of the margin.
    edges[0], edges[-1] = edges[0] - 2, edges[-1] + 2
    z = (at[..., None] - edges) / blur[..., None]
    below = torch.special.ndtr(z)
    bell = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    slope = bell / blur[..., None]
    widening = -z * bell
    return (
        below[..., :-1] - below[..., 1:],
        slope[..., :-1] - slope[..., 1:],
        widening[..., :-1] - widening[..., 1:],
    )


def _solve(normal: Tensor, gradient: Tensor) -> Tensor:
    """The step, in double precision: 12 unknowns of very different sizes."""
    normal, gradient = normal.double(), gradient.double()
    scale = normal.diagonal(dim1=-2, dim2=-1).clamp_min(1e-9).rsqrt()
    even = normal * scale[:, :, None] * scale[:, None, :]
    even = even + 1e-6 * torch.eye(PARAMETERS, dtype=even.dtype, device=even.device)
    step: Tensor = torch.linalg.solve(even, scale * gradient) * scale
    return step.clamp(-50, 50).float()


def _conclude(
    fit: _Fit,
    normal: Tensor,
    noise: Tensor,
    *,
    start: Tensor,
    middle: NDArray[np.int64],
    side: int,
) -> Refined:
    """Corners from homographies, and what the pixels tell about them with all else unknown."""
    A = normal.double() / noise.double()[:, None, None] ** 2
    A = A + torch.diag_embed(1e-9 * A.diagonal(dim1=-2, dim2=-1).clamp_min(1e-9))
    cross = A[:, :8, 8:]
    own = A[:, :8, :8] - cross @ torch.linalg.solve(A[:, 8:, 8:], cross.mT)
    corners, J = _corners(fit.H.double(), side)
    back = torch.linalg.inv(J)
    information = back.mT @ own @ back
    cell = (start[:, 0] - start[:, 2]).norm(dim=-1) / (side * math.sqrt(2))
    moved = (corners - start).norm(dim=-1).amax(-1) / cell
    good = (moved < FURTHEST) & torch.isfinite(information).all(-1).all(-1)
    corners = corners + torch.tensor(middle, device=corners.device)[:, None]
    corners[~good] = torch.nan
    return Refined(
        corners.cpu().numpy().astype(np.float64), information.cpu().numpy().astype(np.float64)
    )


def _corners(H: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """(M, 4, 2) px, and their derivatives (M, 8, 8) to a change of the homography."""
    X = H.new_tensor([[*corner, 1.0] for corner in _square(side)])
    seen = torch.einsum("mij,nj->mni", H, X)
    w = seen[..., 2:]
    corners = seen[..., :2] / w
    # Entry (i, j) of the change turns X into X_j along axis i, and H takes it to the picture.
    turned = (H[:, None, :, :, None] * X[:, None, None, :]).flatten(-2)[..., :8]
    J = (turned[:, :, :2] - corners[..., None] * turned[:, :, 2:]) / w[..., None]
    return corners, J.flatten(1, 2)


def _square(side: int) -> tuple[tuple[float, float], ...]:
    h = side / 2
    return ((-h, -h), (h, -h), (h, h), (-h, h))
