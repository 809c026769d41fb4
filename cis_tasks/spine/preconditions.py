"""What has to hold before solving makes sense; each failure names the sensor and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cis_tasks.errors import PermanentError
from cis_tasks.spine.align import Overlap, Spans
from cis_tasks.spine.calibration import Flags, Floats
from cis_tasks.spine.readers.tracks import gyro_in_degrees
from cis_tasks.spine.recording import Track
from cis_tasks.spine.rig import Rig

LONGEST_S = 24 * 3600.0  # of a recording; beyond, a time is wrong or it is no session
STILL_RAD_S = np.deg2rad(3.0)  # the noise of a hand that tries to hold still
RELATED = 0.3  # correlation of speeds above which they belong together
CLOSELY = 0.6  # above which they do so beyond doubt
DEGREES = 180 / np.pi
LONGEST_SAME_S = 1.0  # a gyroscope is noisy: no reading stays for that long
STUCK_SHARE = 0.8  # of an axis' steps that may be none, as where each reading is stored thrice
NEAREST_M, FARTHEST_M = 0.1, 12.0  # of a person that is filmed
LEAST_FRAMES = 20  # nine unknowns a sensor, three numbers a frame, and some to spare


def require_common_time(tracks: Sequence[Track], file: str) -> None:
    """All sensors record on one clock, for hours at most.

    Raises:
        PermanentError: ``clocks_do_not_overlap`` or ``recording_too_long``.
    """
    late = max(tracks, key=lambda track: track.time_s[0])
    early = min(tracks, key=lambda track: track.time_s[-1])
    if late.time_s[0] >= early.time_s[-1]:
        raise PermanentError(
            "clocks_do_not_overlap",
            f"In {file}, sensor {early.sensor} ends at {early.time_s[-1]:.3f} s, before sensor "
            f"{late.sensor} starts at {late.time_s[0]:.3f} s.",
            "Let all sensors record the same motion, on one clock.",
        )
    first, last = min(t.time_s[0] for t in tracks), max(t.time_s[-1] for t in tracks)
    if last - first > LONGEST_S:
        raise PermanentError(
            "recording_too_long",
            f"{file} runs from {first:.3f} to {last:.3f} s, {(last - first) / 3600:.0f} hours.",
            "Cut it to the hours around the video, and check that timestamp_s is in seconds.",
        )


def require_motion(tracks: Sequence[Track], best: Overlap, file: str) -> None:
    """Something turns.

    Raises:
        PermanentError: ``nothing_moving``.
    """
    speeds = [float(np.quantile(_swing(track), 0.95)) for track in tracks]
    if max(speeds) < STILL_RAD_S and best.correlation < CLOSELY:
        fastest = np.rad2deg(max(speeds))
        raise PermanentError(
            "nothing_moving",
            f"Nothing moves in {file}: no sensor turns faster than {fastest:.1f} °/s.",
            "Rotate every segment by ±30° about at least two axes, for 10–20 s.",
        )


def _swing(track: Track) -> Floats:
    return np.asarray(np.linalg.norm(track.gyr - np.median(track.gyr, axis=0), axis=1))


def require_units(spans: Spans, tracks: Sequence[Track], best: Overlap, file: str) -> None:
    """The gyroscopes are in rad/s: sensors and tags turn equally fast.

    Judged only where their speeds go together.

    Raises:
        PermanentError: ``gyro_in_degrees`` or ``gyro_too_small``.
    """
    if best.correlation < RELATED:
        return
    middle = ((spans.start_s + spans.end_s) / 2).cpu().numpy() + best.offset_s
    seen, ok = spans.speed.cpu().numpy(), spans.ok.cpu().numpy()
    for s, track in enumerate(tracks):
        inside = ok[s] & (middle[s] > track.time_s[0]) & (middle[s] < track.time_s[-1])
        if not inside.any():
            continue
        brisk = inside & (seen[s] >= np.median(seen[s][inside]))
        felt = np.linalg.norm(track.gyr, axis=1)
        ratio = float(np.median(np.interp(middle[s][brisk], track.time_s, felt) / seen[s][brisk]))
        if 1 / 1.5 < ratio / DEGREES < 1.5:
            evidence = f"it shows {ratio:.0f} times the rotation that the video shows"
            raise gyro_in_degrees(file, track.sensor, evidence)
        if 1 / 1.5 < ratio * DEGREES < 1.5 and best.correlation >= CLOSELY:
            raise PermanentError(
                "gyro_too_small",
                f"{file}: the gyroscope of sensor {track.sensor} shows 1/{1 / ratio:.0f} of the "
                f"rotation that the video shows, as if divided by 57.3 once too often.",
                "Multiply gyr_x, gyr_y, gyr_z by 57.29578: they are converted to rad/s twice.",
            )


def require_alive(tracks: Sequence[Track], file: str) -> None:
    """No gyroscope stands still at one value while others turn.

    Where all do, nothing moves, which is another matter.

    Raises:
        PermanentError: ``sensor_dead``.
    """
    faults = [_stands_still(track) for track in tracks]
    if all(faults):
        return
    for track, fault in zip(tracks, faults, strict=True):
        if fault:
            raise PermanentError(
                "sensor_dead",
                f"{file}: the gyroscope of sensor {track.sensor} {fault} while others turn: it is "
                "dead, or lost its connection.",
                "Charge or replace the sensor and record again, or take it and its tag out of the "
                "rig.",
            )


def _stands_still(track: Track) -> str:
    """What of a gyroscope does not change, in words; empty where it is alive."""
    if len(track.time_s) < 2:
        return ""
    frozen_s = _longest_same_s(track.time_s, (np.diff(track.gyr, axis=0) == 0).all(1))
    if frozen_s > LONGEST_SAME_S:
        return f"gives the same reading for {frozen_s:.1f} s"
    for name, axis in zip("xyz", track.gyr.T, strict=True):
        if np.mean(np.diff(axis) == 0) > STUCK_SHARE:
            return f"has an axis, {name}, that does not change"
    return ""


def _longest_same_s(time_s: Floats, same: Flags) -> float:
    """Longest time for which each reading is like the one before it."""
    changes = np.flatnonzero(~same) + 1
    ends = np.concatenate([[0], changes, [len(time_s) - 1]])
    return float(np.diff(time_s[ends]).max())


def require_distance(side_px: Floats, rig: Rig, file: str) -> None:
    """The tags are as far away as a person in front of a camera can be.

    Angles do not depend on the tags' size, but a size that is far off is one in another unit.

    Args:
        side_px: (S, K) side of each tag in the image, NaN where not seen.
        rig: gives the tags' size and the focal length.
        file: name of the video.

    Raises:
        PermanentError: ``tag_size_implausible``.
    """
    focal_px = rig.camera.matrix[0][0]
    distance_m = rig.tag_size_m * focal_px / float(np.nanquantile(side_px, 0.9))
    if not NEAREST_M < distance_m < FARTHEST_M:
        raise PermanentError(
            "tag_size_implausible",
            f"With tags of {1e3 * rig.tag_size_m:g} mm, those in {file} would be "
            f"{distance_m:.2g} m away.",
            "tag_size_m is the side of the black square in metres: measure a printed tag.",
        )


def require_no_gaps(tracks: Sequence[Track], file: str, max_gap_s: float) -> None:
    """No sensor falls silent during the video.

    Raises:
        PermanentError: ``recording_gap``.
    """
    for track in tracks:
        steps = np.diff(track.time_s)
        k = int(steps.argmax())
        if steps[k] > max_gap_s:
            raise PermanentError(
                "recording_gap",
                f"{file}: sensor {track.sensor} has no readings for {steps[k]:.2f} s after "
                f"{track.time_s[k]:.3f} s, in the middle of the video.",
                "Record again with the sensors nearer to the receiver, or cut the session there.",
            )


def require_frames(used: Sequence[int], rig: Rig, file: str) -> None:
    """Every sensor has enough frames; ``used`` counts them in the rig's order.

    Raises:
        PermanentError: ``tag_rarely_seen``.
    """
    for (number, tag), frames in zip(rig.ordered_tags, used, strict=True):
        if frames < LEAST_FRAMES:
            raise PermanentError(
                "tag_rarely_seen",
                f"Tag {number} ({tag.segment}) is seen in only {frames} frames during which "
                f"sensor {tag.sensor} of {file} was recording.",
                "Keep every tag in view, lit and at least 25 pixels wide, while sensors record.",
            )
