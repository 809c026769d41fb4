"""The start of a calibration: how the clocks lie to each other, and how the tags are mounted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from torch import Tensor

from cis_tasks.spine import so3
from cis_tasks.spine.gyro import Gyro, Heading
from cis_tasks.spine.pose import Poses, pick
from cis_tasks.spine.recording import Track

GRID_S = 0.01  # of the coarse search; motion has little above 20 Hz
SPAN_S = 0.2  # over which rotations are compared: long against corner noise, short against bias
BRISK_RAD_S = 3.0  # how fast people turn a segment of their spine, standard deviation
CANDIDATES = 6  # peaks of the coarse search that are looked at closely
APART_S = 0.3  # between two candidates
LARGEST_RAD = 0.1  # a larger disagreement over one span says no more than this one
HAND_EYE_SCALE_RAD = 0.02  # disagreement at which a span's weight halves
HAND_EYE_ROUNDS = 15

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spans:
    """Short rotations of each tag, from one seen frame to a later one.

    Attributes:
        start_s: (S, P) video time of the first frame.
        end_s: (S, P) video time of the second.
        vector: (S, P, 3) rotation vector of the tag between both, tag axes, rad.
        ok: (S, P) whether there is one.
    """

    start_s: Tensor
    end_s: Tensor
    vector: Tensor
    ok: Tensor

    @property
    def angle(self) -> Tensor:
        """(S, P) how far each tag turned, rad."""
        angle: Tensor = self.vector.norm(dim=-1)
        return angle

    @property
    def speed(self) -> Tensor:
        """(S, P) rotation speed, rad/s."""
        return self.angle / (self.end_s - self.start_s)


@dataclass(frozen=True)
class Start:
    """Where the solver starts.

    Attributes:
        offset_s: sensor time minus video time.
        R_sensor_tag: (S, 3, 3).
        R_camera_start: (S, 3, 3), takes sensor coordinates at the recording's first sample to
            camera coordinates.
        bias: (S, 3) rad/s.
    """

    offset_s: float
    R_sensor_tag: Tensor
    R_camera_start: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Overlap:
    """How video and recording lie to each other, roughly.

    Attributes:
        offset_s: sensor time minus video time.
        correlation: of the rotation speeds there, from -1 to 1.
    """

    offset_s: float
    correlation: float


def find_spans(time_s: Tensor, poses: Poses) -> Spans:
    """Rotations over about ``SPAN_S`` from (S, K) row times.

    Of the two poses at either end, those are taken that fit their corners and lie close to each
    other: a wrong pose is often as likely as the right one in its frame, but far away from it.
    """
    frame_s = float(torch.diff(time_s[0]).median())
    step = min(max(1, round(SPAN_S / frame_s)), time_s.shape[1] - 1)
    start, end = time_s[:, :-step], time_s[:, step:]
    near = (end - start) < 2.5 * step * frame_s  # no span over a hole in the video
    ok = poses.ok[:, :-step] & poses.ok[:, step:] & near
    R = poses.R_camera_tag
    vectors = so3.log(R[:, :-step, :, None].mT @ R[:, step:, None, :]).flatten(2, 3)
    fit = poses.misfit / poses.noise**2
    unlikely = (fit[:, :-step, :, None] + fit[:, step:, None, :]).flatten(2)
    turned = (vectors**2).sum(-1) / (BRISK_RAD_S * (end - start)[..., None]) ** 2
    return Spans(start, end, pick(vectors, (unlikely + turned).argmin(-1)), ok)


def find_overlaps(
    spans: Spans, tracks: Sequence[Track], min_overlap_s: float
) -> tuple[Overlap, ...]:
    """Likely offsets, best first, over every way that recording and video can overlap.

    Correlates the rotation speeds of all tags with those of their sensors by FFT, only over what
    both have (Padfield, CVPR 2010). The clocks may start anywhere. Empty where the recording and
    the video have less than ``min_overlap_s`` of either.
    """
    video = [_video_speed(spans, s) for s in range(len(tracks))]
    first = min(track.time_s[0] for track in tracks)
    last = max(track.time_s[-1] for track in tracks)
    grid = np.arange(first, last, GRID_S)
    sensor = [_sensor_speed(track, grid) for track in tracks]
    begin = float(spans.start_s.min())
    count, correlation = _masked_correlation(video, sensor)
    least = min_overlap_s / GRID_S
    score = np.where(count >= least, correlation * np.sqrt(count), -np.inf)
    lags = np.arange(len(score)) - (len(video[0][0]) - 1)
    overlaps = []
    for _ in range(CANDIDATES):
        best = int(score.argmax())
        if not np.isfinite(score[best]):
            break
        offset = first + lags[best] * GRID_S - begin
        overlaps.append(Overlap(float(offset), float(correlation[best])))
        reach = round(APART_S / GRID_S)
        score[max(best - reach, 0) : best + reach + 1] = -np.inf
    return tuple(overlaps)


def _video_speed(spans: Spans, s: int) -> tuple[Floats, Floats]:
    """Rotation speed of tag ``s`` on the grid, and where it is known (1) or not (0)."""
    ok = spans.ok[s].cpu().numpy()
    begin, end = float(spans.start_s.min()), float(spans.end_s.max())
    grid = np.arange(begin, end, GRID_S)
    if not ok.any():
        return np.zeros_like(grid), np.zeros_like(grid)
    middle = ((spans.start_s[s] + spans.end_s[s]) / 2).cpu().numpy()[ok]
    speed = spans.speed[s].cpu().numpy()[ok]
    after = np.searchsorted(middle, grid).clip(1, max(len(middle) - 1, 1))
    near = [np.abs(grid - middle[(after - side).clip(0, len(middle) - 1)]) for side in (0, 1)]
    known = np.minimum(*near) < SPAN_S / 2
    return np.interp(grid, middle, _even(speed)), known.astype(np.float64)


def _sensor_speed(track: Track, grid: Floats) -> tuple[Floats, Floats]:
    """Speed of the mean rate over a span around each grid time, as the video sees it."""
    turned = np.zeros_like(track.gyr)
    turned[1:] = np.cumsum(
        (track.gyr[1:] + track.gyr[:-1]) / 2 * np.diff(track.time_s)[:, None], axis=0
    )
    ends = [
        np.stack([np.interp(grid + half, track.time_s, axis) for axis in turned.T], -1)
        for half in (-SPAN_S / 2, SPAN_S / 2)
    ]
    speed = np.linalg.norm(ends[1] - ends[0], axis=1) / SPAN_S
    known = (grid >= track.time_s[0]) & (grid <= track.time_s[-1])
    return _even(speed), known.astype(np.float64)


def _even(speed: Floats) -> Floats:
    """Cut off the highest tenth, and scale to 1.

    Wrong poses show as bursts of speed and would rule a product; a sensor in other units would
    rule the sum.
    """
    cut = np.minimum(speed, np.quantile(speed, 0.9))
    return cut / max(float(cut.std()), 1e-9)


def _masked_correlation(
    video: Sequence[tuple[Floats, Floats]], sensor: Sequence[tuple[Floats, Floats]]
) -> tuple[Floats, Floats]:
    """Overlap and correlation at every lag, over all sensors together.

    The overlap is the mean count of grid points over the sensors.
    """
    n = len(video[0][0]) + len(sensor[0][0]) - 1
    total = np.zeros((3, n))  # covariance and both variances, each sensor about its own means
    counts = np.zeros(n)
    for (video_speed, seen), (sensor_speed, known) in zip(video, sensor, strict=True):
        v, w = video_speed * seen, sensor_speed * known
        count = np.maximum(_correlate(seen, known), 0.0)
        safe = np.maximum(count, 1.0)
        sum_v, sum_w = _correlate(v, known), _correlate(seen, w)
        total[0] += _correlate(v, w) - sum_v * sum_w / safe
        total[1] += _correlate(v * v, known) - sum_v**2 / safe
        total[2] += _correlate(seen, w * w) - sum_w**2 / safe
        counts += count
    scale = np.sqrt(np.maximum(total[1], 1e-12) * np.maximum(total[2], 1e-12))
    return counts / len(video), np.clip(total[0] / scale, -1.0, 1.0)


def _correlate(video: Floats, sensor: Floats) -> Floats:
    """``sum(video[i] * sensor[i + lag])`` for every lag from ``1 - len(video)`` on."""
    n = len(video) + len(sensor) - 1
    size = next_fast_len(n, real=True)
    return np.asarray(irfft(rfft(video[::-1], size) * rfft(sensor, size), size)[:n])


def find_start(spans: Spans, time_s: Tensor, poses: Poses, gyro: Gyro, offset_s: float) -> Start:
    """Refine an offset to a millisecond and find the mounting there.

    Args:
        spans: the tags' short rotations.
        time_s: (S, K) row times.
        poses: the tags' orientations.
        gyro: the sensors, around the video.
        offset_s: sensor time minus video time, from the coarse search.
    """
    heading = gyro.integrate(gyro.rate.new_zeros(len(gyro.rate), 3))
    for reach_s, step_s in ((0.15, 0.01), (0.02, 0.001)):
        trials = offset_s + torch.arange(-reach_s, reach_s + step_s / 2, step_s)
        costs = [misfit(spans, heading, gyro, float(trial)) for trial in trials]
        offset_s = float(trials[int(np.argmin(costs))])
    R_sensor_tag, bias = _hand_eye(spans, heading, gyro, offset_s)
    at = time_s + offset_s
    carried = gyro.integrate(bias).rotation(at) @ R_sensor_tag[:, None]
    R_start = _start_orientation(poses, carried, poses.ok & gyro.covers(at))
    return Start(offset_s, R_sensor_tag, R_start, bias)


def misfit(spans: Spans, heading: Heading, gyro: Gyro, offset_s: float) -> float:
    """How badly the sizes of the rotations agree: 0 well, near 1 when they are unrelated."""
    carried = turned(spans, heading, offset_s).norm(dim=-1)
    ok = spans.ok & gyro.covers(spans.start_s + offset_s) & gyro.covers(spans.end_s + offset_s)
    apart = (carried - spans.angle).abs().clamp(max=LARGEST_RAD)
    size = spans.angle.clamp(max=LARGEST_RAD)
    return float((apart * ok).sum() / (size * ok).sum().clamp_min(1e-9))


def turned(spans: Spans, heading: Heading, offset_s: float) -> Tensor:
    """(S, P, 3) rotation vectors of the sensors over the spans, sensor axes."""
    R0 = heading.rotation(spans.start_s + offset_s)
    R1 = heading.rotation(spans.end_s + offset_s)
    return so3.log(R0.mT @ R1)


def _hand_eye(spans: Spans, heading: Heading, gyro: Gyro, offset_s: float) -> tuple[Tensor, Tensor]:
    """Mounting and bias from ``sensor = R_sensor_tag · tag + bias · span``, robustly."""
    u, v = turned(spans, heading, offset_s), spans.vector
    ok = spans.ok & gyro.covers(spans.start_s + offset_s) & gyro.covers(spans.end_s + offset_s)
    span_s = (spans.end_s - spans.start_s)[..., None]
    weight = ok.to(u.dtype)
    bias = u.new_zeros(len(u), 3)
    R = u.new_zeros(len(u), 3, 3)
    for _ in range(HAND_EYE_ROUNDS):
        R = so3.project(torch.einsum("sp,spi,spj->sij", weight, u - bias[:, None] * span_s, v))
        apart = u - v @ R.mT
        total = (weight[..., None] * span_s).sum(1).clamp_min(1e-9)
        bias = (weight[..., None] * apart).sum(1) / total
        distance = (apart - bias[:, None] * span_s).norm(dim=-1)
        weight = ok / (1 + (distance / HAND_EYE_SCALE_RAD) ** 2)
    return R, bias


def _start_orientation(poses: Poses, carried: Tensor, ok: Tensor) -> Tensor:
    """The first sample's orientation in the camera that suits most frames."""
    each = pick(poses.R_camera_tag, poses.better) @ carried.mT
    weight = ok.to(each.dtype)
    R = so3.project(torch.einsum("sk,skij->sij", weight, each))
    for _ in range(HAND_EYE_ROUNDS):
        distance = so3.log(R[:, None].mT @ each).norm(dim=-1)
        robust = weight / (1 + (distance / 0.1) ** 2)
        R = so3.project(torch.einsum("sk,skij->sij", robust, each))
    return R
