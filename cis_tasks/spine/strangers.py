"""Which tags a video shows when it does not show those of the rig."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from cis_tasks.errors import PermanentError
from cis_tasks.spine.rig import Family, Rig
from cis_tasks.spine.video import Video

UNSEEN = frozenset({"no_tag_seen", "tag_never_seen"})
LOOKS = 15  # frames, evenly spread over the first minute
LOOK_UNTIL_S = 60.0
LEAST_TIMES = 3  # a tag that is there is seen again; a pattern that looks like one is not


def name_what_is_seen(error: PermanentError, video: Path, rig: Rig) -> None:
    """Where the rig's tags were not found, look for others.

    Args:
        error: what looking for the rig's tags ended in.
        video: the video.
        rig: the rig.

    Raises:
        PermanentError: ``tag_family_wrong``, or the same code with the tags that are there.
    """
    if error.code not in UNSEEN:
        return
    found = {family: ids for family in get_args(Family) if (ids := _seen(video, family))}
    own = found.pop(rig.tag_family, set())
    if error.code == "no_tag_seen" and not own and found:
        family, ids = max(found.items(), key=lambda item: len(item[1]))
        raise PermanentError(
            "tag_family_wrong",
            f"{video.name} shows tags of family {family} (ids {_listed(ids)}), the rig's are of "
            f"{rig.tag_family}.",
            f'Set "tag_family": "{family}" in the rig, or use the session\'s own rig.',
        )
    if others := own - rig.tags.keys():
        raise PermanentError(
            error.code,
            f"{error.message} It shows the tags {_listed(others)}, which the rig does not name.",
            "Give each tag the id that is printed on it, or use the session's own rig.",
        )


def _seen(video: Path, family: Family) -> set[int]:
    parameters = cv2.aruco.DetectorParameters()
    parameters.errorCorrectionRate = 0.0  # whole families are searched: no bit may be wrong
    codes = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_APRILTAG_{family}"))
    detector = cv2.aruco.ArucoDetector(codes, parameters)
    times: Counter[int] = Counter()
    for grey in _looks(video):
        _, ids, _ = detector.detectMarkers(grey)
        if ids is not None:
            times.update({int(number) for number in np.ravel(ids)})
    return {number for number, count in times.items() if count >= LEAST_TIMES}


def _looks(video: Path) -> list[NDArray[np.uint8]]:
    with Video(video) as footage:
        step_s = min(footage.expected_s or LOOK_UNTIL_S, LOOK_UNTIL_S) / LOOKS
        frames: list[NDArray[np.uint8]] = []
        due = -np.inf
        for frame in footage:
            if frame.time_s >= due:
                frames.append(frame.grey.copy())
                due = frame.time_s + step_s
            if len(frames) == LOOKS:
                break
    return frames


def _listed(ids: set[int]) -> str:
    return ", ".join(map(str, sorted(ids)[:12]))
