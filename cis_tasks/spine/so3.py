"""Rotations in batches: matrices, rotation vectors, and products along a time axis.

Everything takes any number of leading batch dimensions and keeps device and type.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hat(v: Tensor) -> Tensor:
    """(…, 3) vectors to the (…, 3, 3) matrices with ``hat(v) @ x == cross(v, x)``."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*v.shape, 3)


def exp(v: Tensor) -> Tensor:
    """(…, 3) rotation vectors, rad, to (…, 3, 3) rotations (Rodrigues)."""
    square = (v * v).sum(-1)[..., None, None]
    angle = square.clamp_min(1e-24).sqrt()
    small = square < 1e-8  # there the series is exact to the last digit
    first = torch.where(small, 1 - square / 6, torch.sin(angle) / angle)
    half = torch.sin(angle / 2) / angle
    second = torch.where(small, 0.5 - square / 24, 2 * half * half)
    h = hat(v)
    return torch.eye(3, dtype=v.dtype, device=v.device) + first * h + second * (h @ h)


def log(R: Tensor) -> Tensor:
    """(…, 3, 3) rotations to (…, 3) rotation vectors of at most π, rad.

    By way of the quaternion, which is well conditioned at every angle.
    """
    q = to_quaternion(R)
    w, v = q[..., 0], q[..., 1:]
    sine = v.norm(dim=-1)
    angle = 2 * torch.atan2(sine, w)
    scale = torch.where(sine > 1e-12, angle / sine.clamp_min(1e-12), 2 * torch.ones_like(sine))
    return v * scale[..., None]


def to_quaternion(R: Tensor) -> Tensor:
    """(…, 3, 3) rotations to (…, 4) unit quaternions w, x, y, z with w ≥ 0."""
    xx, yy, zz = R.diagonal(dim1=-2, dim2=-1).unbind(-1)
    a, b, c = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    d, e, f = R[..., 0, 1] + R[..., 1, 0], R[..., 0, 2] + R[..., 2, 0], R[..., 1, 2] + R[..., 2, 1]
    # Rows of 4·q·qᵀ; the one with the largest diagonal element divides safely (Shepperd 1978).
    outer = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, a, b, c], -1),
            torch.stack([a, 1 + xx - yy - zz, d, e], -1),
            torch.stack([b, d, 1 - xx + yy - zz, f], -1),
            torch.stack([c, e, f, 1 - xx - yy + zz], -1),
        ],
        -2,
    )
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = outer.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4))[..., 0, :]
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def project(M: Tensor) -> Tensor:
    """The rotations nearest to (…, 3, 3) matrices (Kabsch)."""
    U, _, Vt = torch.linalg.svd(M)
    sign = torch.det(U @ Vt)
    one = torch.ones_like(sign)
    nearest: Tensor = U @ torch.diag_embed(torch.stack([one, one, sign], -1)) @ Vt
    return nearest


def scan(R: Tensor) -> Tensor:
    """Running products along dimension -3: ``out[k] = R[0] @ R[1] @ … @ R[k]``.

    Pairs are multiplied first, then the half-length sequence is scanned, so that n factors take
    2·n products in 2·log₂ n batched steps (Blelloch 1990).
    """
    n = R.shape[-3]
    if n == 1:
        return R
    pairs = scan(R[..., 0 : n - 1 : 2, :, :] @ R[..., 1:n:2, :, :])
    out = torch.empty_like(R)
    out[..., 0, :, :] = R[..., 0, :, :]
    out[..., 1::2, :, :] = pairs
    evens = R[..., 2::2, :, :]
    out[..., 2::2, :, :] = pairs[..., : evens.shape[-3], :, :] @ evens
    return out
