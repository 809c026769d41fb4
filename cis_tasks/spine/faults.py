"""Why gyroscopes and tags disagree: the usual mistakes, recognised and named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import torch

from cis_tasks.spine.align import Spans, find_overlaps, turned
from cis_tasks.spine.gyro import Gyro
from cis_tasks.spine.recording import Track
from cis_tasks.spine.solve import Solution

ALIKE = 0.8  # correlation of speeds at which a tag and a sensor move as one
BETTER = 0.15  # gain in correlation that a swap of two sensors has to bring
UNRELATED = 0.7  # correlation of speeds that two sessions do not reach
STUCK_READINGS = 3  # equal extreme readings in a row mean the end of the range
STUCK_SHARE = 0.002
MIRRORED = 0.8  # share of the rotation that a mirrored mounting has to explain


def find_faults(
    spans: Spans, tracks: Sequence[Track], gyro: Gyro, solution: Solution, min_overlap_s: float
) -> tuple[str, ...]:
    """Sentences on what is likely wrong; none where it is none of the usual mistakes.

    Args:
        spans: the tags' short rotations.
        tracks: the sensors' recordings, one for each tag.
        gyro: the sensors, around the video.
        solution: that did not fit.
        min_overlap_s: as in the search for the offset.
    """
    found = (
        *_swapped(spans, tracks, min_overlap_s),
        *_clipped(tracks),
        *_mirrored(spans, tracks, gyro, solution),
    )
    return found or tuple(_unrelated(spans, tracks, min_overlap_s))


def _swapped(spans: Spans, tracks: Sequence[Track], min_overlap_s: float) -> Iterator[str]:
    """The one exchange of two sensors that makes everything fit, if there is one."""
    found = find_overlaps(spans, tracks, min_overlap_s)
    best, pair = found[0].correlation + BETTER if found else ALIKE, None
    for i, j in combinations(range(len(tracks)), 2):
        order = list(tracks)
        order[i], order[j] = order[j], order[i]
        overlaps = find_overlaps(spans, order, min_overlap_s)
        if overlaps and overlaps[0].correlation > max(best, ALIKE):
            best, pair = overlaps[0].correlation, (tracks[i].sensor, tracks[j].sensor)
    if pair:
        yield (
            f"Sensors {pair[0]} and {pair[1]} seem to be swapped in the rig: each moves like the "
            f"other's tag. In the rig, write {pair[1]} where {pair[0]} stands and {pair[0]} where "
            f"{pair[1]} stands; the recording can stay as it is."
        )


def _unrelated(spans: Spans, tracks: Sequence[Track], min_overlap_s: float) -> Iterator[str]:
    """Nothing that one could exchange or turn round makes them move alike."""
    found = find_overlaps(spans, tracks, min_overlap_s)
    if not found or found[0].correlation < UNRELATED:
        yield (
            "Video and recording seem to be of different sessions: nowhere in the recording do "
            "the sensors turn as the tags do."
        )


def _clipped(tracks: Sequence[Track]) -> Iterator[str]:
    """Sensors that stay at the end of their range."""
    for track in tracks:
        size = np.abs(track.gyr)
        at_end = size >= size.max() * (1 - 1e-6)
        runs = np.array(
            [at_end[k : len(at_end) - STUCK_READINGS + 1 + k] for k in range(STUCK_READINGS)]
        )
        share = float(np.mean(np.any(np.all(runs, axis=0), axis=1)))
        if share > STUCK_SHARE:
            yield (
                f"The gyroscope of {track.sensor} stays at its limit of "
                f"{np.rad2deg(size.max()):.0f} °/s for {100 * share:.0f} % of the time: move "
                f"slower or set a larger range."
            )


def _mirrored(
    spans: Spans, tracks: Sequence[Track], gyro: Gyro, solution: Solution
) -> Iterator[str]:
    """Sensors that only a reflection fits to their tag: an axis with the wrong sign."""
    offset_s = float(solution.state.offset_s)
    heading = gyro.integrate(torch.zeros_like(solution.state.bias))
    u, v = turned(spans, heading, offset_s), spans.vector
    ok = spans.ok & gyro.covers(spans.start_s + offset_s) & gyro.covers(spans.end_s + offset_s)
    for s, track in enumerate(tracks):
        sensor, tag = u[s][ok[s]], v[s][ok[s]]
        sensor, tag = sensor - sensor.mean(0), tag - tag.mean(0)
        U, strength, Vt = torch.linalg.svd(sensor.mT @ tag)
        whole = float(torch.sqrt((sensor**2).sum() * (tag**2).sum()))
        if float(torch.det(U @ Vt)) < 0 and float(strength.sum()) > MIRRORED * whole:
            yield (
                f"The gyroscope of {track.sensor} is left-handed: one of its axes has the wrong "
                f"sign, or two are exchanged."
            )
