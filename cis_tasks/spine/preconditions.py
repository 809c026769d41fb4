"""What has to hold before solving makes sense; each failure names the sensor and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cis_tasks.errors import PermanentError
from cis_tasks.spine.align import Overlap, Spans
from cis_tasks.spine.calibration import Floats
from cis_tasks.spine.recording import Track, gyro_in_degrees
from cis_tasks.spine.rig import Rig

LONGEST_S = 24 * 3600.0  # of a recording; beyond, a time is wrong or it is no session
STILL_RAD_S = np.deg2rad(3.0)  # the noise of a hand that tries to hold still
RELATED = 0.3  # correlation of speeds above which they belong together
CLOSELY = 0.6  # above which they do so beyond doubt
DEGREES = 180 / np.pi
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
