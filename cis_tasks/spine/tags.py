"""AprilTags in the video: found once, then followed from frame to frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Progress, no_progress
from cis_tasks.spine.calibration import Thumbnail, VideoInfo
from cis_tasks.spine.devices import choose_device, refines_photometrically
from cis_tasks.spine.options import Options
from cis_tasks.spine.photometric import Refiner
from cis_tasks.spine.prefetch import ahead
from cis_tasks.spine.rig import Camera, Family, Rig
from cis_tasks.spine.video import Frame, Video

Corners = NDArray[np.float64]

LEAST_MARGIN_PX = 24  # a small tag moves as many pixels as a large one
RETRY_FRAMES = 5  # soonest full search after the last when a tag has just been lost
# OpenCV's AprilTag refinement counts from a pixel's corner, all else of OpenCV from its centre.
HALF_PIXEL = 0.5
THUMBNAIL_PX = 480
AT_ONCE = 4  # regions; OpenCV lets other threads run meanwhile
THUMBNAILS = 6


@dataclass(frozen=True)
class Sightings:
    """Where the rig's tags were seen.

    Attributes:
        time_s: (K,) frame times.
        corners_px: (S, K, 4, 2) corners, tags in the rig's order from the sacrum upwards, from
            the tag's own top left clockwise; NaN where not seen.
        video: about the video.
        thumbnails: a few frames, small.
        warnings: in sentences.
        information: (S, K, 8, 8) on the corners x0, y0, x1, …, 1/px², where it is known.
    """

    time_s: NDArray[np.float64]
    corners_px: Corners
    video: VideoInfo
    thumbnails: tuple[Thumbnail, ...] = ()
    warnings: tuple[str, ...] = ()
    information: NDArray[np.float64] | None = None

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(S, K) whether each tag was seen in each frame."""
        return np.asarray(np.isfinite(self.corners_px).all((2, 3)))

    def row_time_s(self, camera: Camera) -> NDArray[np.float64]:
        """(S, K) when each tag was exposed: the rows of a rolling shutter are not simultaneous.

        A frame's time is that of its middle row; tags not seen get the frame's time.
        """
        row = np.nan_to_num(self.corners_px[..., 1].mean(-1), nan=camera.height / 2)
        return np.asarray(self.time_s + camera.readout_s * (row / camera.height - 0.5))

    @property
    def side_px(self) -> NDArray[np.float64]:
        """(S, K) mean side of each tag in the image, px, NaN where not seen."""
        sides = np.diff(self.corners_px, axis=2, append=self.corners_px[:, :, :1])
        return np.asarray(np.linalg.norm(sides, axis=-1).mean(-1))


class TagTracker:
    """Finds the session's tags in one frame after the other."""

    def __init__(
        self, family: Family, tags: Sequence[int], options: Options, pool: Executor | None = None
    ) -> None:
        self._pool = pool
        self._tags = tuple(tags)
        self._options = options
        # The dictionary is cut down to the session's tags: matching every candidate square to
        # the family's hundreds of codes would cost more than all the rest.
        whole = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_APRILTAG_{family}"))
        codes = cv2.aruco.Dictionary(
            whole.bytesList[list(self._tags)], whole.markerSize, whole.maxCorrectionBits
        )
        self._searcher = _detector(codes, cv2.aruco.CORNER_REFINE_NONE)
        self._refiner = _detector(codes, cv2.aruco.CORNER_REFINE_APRILTAG)
        # Where AprilTag's own detector gives up on a small tag, the plain one often does not: its
        # corners are good enough to start a photometric fit from.
        self._fallback = self._searcher if refines_photometrically(options) else None
        self._last: dict[int, Corners] = {}
        self._since_search = options.full_search_frames

    def find(self, grey: NDArray[np.uint8]) -> dict[int, Corners]:
        """Tag id → (4, 2) corners in pixels; call it with the frames in their order."""
        found = self._look_near(grey, self._last)
        self._since_search += 1
        if self._search_is_due(found):
            self._since_search = 0
            anywhere = self._detect(self._searcher, grey)
            missed = {tag: place for tag, place in anywhere.items() if tag not in found}
            found |= self._look_near(grey, missed)
            self._last = found
        self._last = self._last | found
        return found

    def _search_is_due(self, found: Mapping[int, Corners]) -> bool:
        if len(found) == len(self._tags):
            return False
        lost = self._last.keys() - found.keys()
        patience = RETRY_FRAMES if lost else self._options.full_search_frames
        return self._since_search >= patience

    def _look_near(
        self, grey: NDArray[np.uint8], places: Mapping[int, Corners]
    ) -> dict[int, Corners]:
        look = partial(self._look_at, grey)
        run = self._pool.map if self._pool and len(places) > 1 else map
        corners = run(look, places, places.values())
        return {tag: place for tag, place in zip(places, corners, strict=True) if place is not None}

    def _look_at(self, grey: NDArray[np.uint8], tag: int, place: Corners) -> Corners | None:
        low, high = place.min(0), place.max(0)
        margin = max(LEAST_MARGIN_PX, self._options.roi_margin * float((high - low).max()))
        x0, y0 = np.maximum(low - margin, 0).astype(int)
        x1, y1 = np.maximum(high + margin, 0).astype(int)
        region = np.ascontiguousarray(grey[y0:y1, x0:x1])
        if not region.size:
            return None
        corner = np.array([x0, y0])
        if (corners := self._detect(self._refiner, region).get(tag)) is not None:
            return np.asarray(corners - HALF_PIXEL + corner)
        if (
            self._fallback
            and (corners := self._detect(self._fallback, region).get(tag)) is not None
        ):
            return np.asarray(corners + corner)
        return None

    def _detect(
        self, detector: cv2.aruco.ArucoDetector, grey: NDArray[np.uint8]
    ) -> dict[int, Corners]:
        quads, rows, _ = detector.detectMarkers(grey)
        found = [] if rows is None else [int(row) for row in np.ravel(rows)]
        return {
            self._tags[row]: np.asarray(quad, dtype=np.float64).reshape(4, 2)
            for row, quad in zip(found, quads, strict=True)
        }


def _detector(codes: cv2.aruco.Dictionary, refinement: int) -> cv2.aruco.ArucoDetector:
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = refinement
    return cv2.aruco.ArucoDetector(codes, parameters)


def watch(video: Video, rig: Rig, options: Options, progress: Progress = no_progress) -> Sightings:
    """Look for the rig's tags in the whole video; other tags are ignored.

    Raises:
        PermanentError: ``video_size``, ``video_too_short``, or ``no_tag_seen``.
    """
    _require_size(video, rig.camera)
    numbers = [number for number, _ in rig.ordered_tags]
    refiner = None
    if refines_photometrically(options):
        refiner = Refiner(rig.tag_family, numbers, choose_device(options))
    notes = _Notes(numbers, refiner)
    with ThreadPoolExecutor(min(len(numbers), AT_ONCE)) as pool:
        tracker = TagTracker(rig.tag_family, numbers, options, pool)
        for frame in ahead(video):
            notes.add(frame, tracker.find(frame.grey))
            if video.expected_s:
                progress("detect", min(frame.time_s / video.expected_s, 1.0))
    info = _describe(video, notes.times_s)
    _require_length(info, options)
    sightings = notes.sightings(info, _damage(video, info))
    _require_seen(sightings, rig)
    return sightings


@dataclass
class _Notes:
    """What was seen so far."""

    numbers: Sequence[int]
    refiner: Refiner | None
    times_s: list[float] = field(default_factory=list)
    places: list[dict[int, Corners]] = field(default_factory=list)
    sheet: _ContactSheet = field(init=False)

    def __post_init__(self) -> None:
        self.sheet = _ContactSheet()

    def add(self, frame: Frame, found: dict[int, Corners]) -> None:
        self.sheet.offer(frame, found)
        self.times_s.append(frame.time_s)
        self.places.append(found)
        if self.refiner:
            for s, number in enumerate(self.numbers):
                if number in found:
                    self.refiner.offer(s, found[number], frame.grey)

    def sightings(self, info: VideoInfo, warnings: tuple[str, ...]) -> Sightings:
        nothing = np.full((4, 2), np.nan)
        corners = np.array([[f.get(n, nothing) for f in self.places] for n in self.numbers])
        information = None
        if self.refiner:
            information = np.zeros((*corners.shape[:2], 8, 8))
            by_frame = np.isfinite(corners).all((2, 3)).T  # in the order they were offered
            refined = self.refiner.finish()
            corners.swapaxes(0, 1)[by_frame] = refined.corners_px
            information.swapaxes(0, 1)[by_frame] = refined.information
        return Sightings(
            np.array(self.times_s), corners, info, self.sheet.pick(), warnings, information
        )


@dataclass
class _ContactSheet:
    """Keeps a few frames, evenly spread over a video of unknown length."""

    every: int = 1
    count: int = 0
    kept: list[Thumbnail] = field(default_factory=list)

    def offer(self, frame: Frame, found: Mapping[int, Corners]) -> None:
        if self.count % self.every == 0:
            scale = min(THUMBNAIL_PX / frame.grey.shape[1], 1.0)
            small = cv2.resize(frame.grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            corners = {tag: (place + 0.5) * scale - 0.5 for tag, place in found.items()}
            self.kept.append(Thumbnail(frame.time_s, small.astype(np.uint8), corners))
        if len(self.kept) > 2 * THUMBNAILS:
            self.kept = self.kept[::2]
            self.every *= 2
        self.count += 1

    def pick(self) -> tuple[Thumbnail, ...]:
        count = min(THUMBNAILS, len(self.kept))
        return tuple(self.kept[round(k)] for k in np.linspace(0, len(self.kept) - 1, count))


def _require_size(video: Video, camera: Camera) -> None:
    if (video.width, video.height) == (camera.width, camera.height):
        return
    turned = (video.height, video.width) == (camera.width, camera.height)
    raise PermanentError(
        "video_size",
        f"{video.file} has {video.width}×{video.height} pixels, the rig's camera "
        f"{camera.width}×{camera.height}.",
        "The video is turned by 90°: use the rig of that orientation."
        if turned
        else "Use the rig that was calibrated for this resolution; do not rescale the video.",
    )


def _describe(video: Video, times: Sequence[float]) -> VideoInfo:
    steps = np.diff(times)
    return VideoInfo(
        file=video.file,
        width=video.width,
        height=video.height,
        frames=len(times),
        duration_s=times[-1] - times[0] if times else 0.0,
        frame_rate_hz=float(1 / np.median(steps)) if len(steps) else 0.0,
        damaged_frames=video.damaged,
    )


def _require_length(info: VideoInfo, options: Options) -> None:
    if info.frames == 0:
        raise PermanentError(
            "video_unreadable",
            f"No frame of {info.file} could be decoded.",
            "Check that it plays; convert it with ffmpeg to MP4 (H.264).",
        )
    if info.duration_s < options.min_overlap_s:
        raise PermanentError(
            "video_too_short",
            f"{info.file} has {info.duration_s:.1f} s of readable video; at least "
            f"{options.min_overlap_s:g} s are needed.",
            "Film 10–20 s of motion; if it is longer, the file was cut off: upload it again.",
        )


def _damage(video: Video, info: VideoInfo) -> tuple[str, ...]:
    warnings = []
    missing_s = video.expected_s - info.duration_s - 1.5 / info.frame_rate_hz
    if missing_s > 0.5:
        warnings.append(
            f"{info.file} is cut off: {info.duration_s:.1f} s of {video.expected_s:.1f} s were "
            f"readable and used."
        )
    if video.damaged:
        warnings.append(f"{info.file}: {video.damaged} damaged frames were left out.")
    return tuple(warnings)


def _require_seen(sightings: Sightings, rig: Rig) -> None:
    counts = sightings.seen.sum(1)
    wanted = ", ".join(str(number) for number, _ in rig.ordered_tags)
    if counts.sum() == 0:
        raise PermanentError(
            "no_tag_seen",
            f"None of the tags {wanted} of family {rig.tag_family} is seen in "
            f"{sightings.video.file}.",
            "Check the family and ids in the rig; film the tags from the front, sharp, lit, and "
            "at least 25 pixels wide, with their white margin.",
        )
    unseen = [
        f"{number} ({tag.segment})"
        for (number, tag), count in zip(rig.ordered_tags, counts, strict=True)
        if count == 0
    ]
    if unseen:
        raise PermanentError(
            "tag_never_seen",
            f"Tag {', '.join(unseen)} is never seen in {sightings.video.file}, while others are.",
            "Check its id in the rig and that nothing covers it, or take it out of the rig.",
        )
