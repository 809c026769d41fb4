"""The video: grey frames with their presentation times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from cis_tasks.errors import PermanentError

# Formats whose first plane is 8-bit luminance, so that nothing needs converting.
LUMA_FIRST = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "gray")


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        time_s: presentation time.
        grey: (h, w) luminance; only valid until the next frame is taken.
    """

    time_s: float
    grey: NDArray[np.uint8]


class Video:
    """An open video file; iterating gives its frames, in order of time.

    Times are the presentation times in the file, never index over frame rate: phones drop and
    delay frames. What cannot be decoded is left out and counted.

    Attributes:
        file: name of the file, without folders.
        width: of the stored picture, pixels.
        height: of the stored picture, pixels.
        turns: quarter turns to the left that players show the picture with. Frames come as
            stored: their rows are those that the sensor read out one after the other.
        expected_s: duration that the file claims; 0 where it does not say.
        damaged: frames and packets that could not be decoded so far.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises:
            PermanentError: ``video_empty`` or ``video_unreadable``.
        """
        self.file = path.name
        self.damaged = 0
        if path.stat().st_size == 0:
            raise PermanentError(
                "video_empty", f"{path.name} is empty.", "Upload the video again, whole."
            )
        try:
            self._container: InputContainer = av.open(str(path), metadata_errors="ignore")
        except (av.FFmpegError, ValueError) as error:
            raise _unreadable(path.name, _reason(error)) from error
        if not self._container.streams.video:
            self._container.close()
            raise _unreadable(path.name, "it has no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"  # decodes ahead while the caller looks for tags
        self.width = self._stream.codec_context.width
        self.height = self._stream.codec_context.height
        self.expected_s = _duration(self._container)
        self.turns = _quarter_turns(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        for time_s, picture in self.pictures():
            yield Frame(time_s, _luminance(picture))

    def pictures(self) -> Iterator[tuple[float, VideoFrame]]:
        """Presentation times and pictures as FFmpeg decodes them, in order of time."""
        last = -np.inf
        for decoded in self._decode():
            if decoded.is_corrupt or decoded.pts is None or decoded.time_base is None:
                self.damaged += 1
                continue
            time_s = float(decoded.pts * decoded.time_base)
            if time_s > last:
                last = time_s
                yield time_s, decoded

    def _decode(self) -> Iterator[VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self.damaged += 1
                return
            try:
                yield from packet.decode()
            except av.FFmpegError:
                self.damaged += 1


def upright(image: NDArray[np.uint8], turns: int) -> NDArray[np.uint8]:
    """A picture as players show it, from how it is stored."""
    return np.ascontiguousarray(np.rot90(image, turns))


def upright_corners(
    corners_px: NDArray[np.float64], size: tuple[int, int], turns: int
) -> NDArray[np.float64]:
    """Corners (…, 2) in the upright picture, from those in the stored one of (width, height)."""
    out = corners_px
    width, height = size
    for _ in range(turns % 4):
        out = np.stack([out[..., 1], width - 1 - out[..., 0]], -1)
        width, height = height, width
    return out


def _quarter_turns(path: Path) -> int:
    """From the first picture's display matrix; 0 where there is none."""
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            for frame in container.decode(video=0):
                return round(frame.rotation / 90) % 4
    except (av.FFmpegError, ValueError):
        pass  # told when the frames are read
    return 0


def _duration(container: InputContainer) -> float:
    stream = container.streams.video[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


def _luminance(frame: VideoFrame) -> NDArray[np.uint8]:
    if frame.format.name not in LUMA_FIRST:
        return np.asarray(frame.to_ndarray(format="gray"), dtype=np.uint8)
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width]


def _reason(error: Exception) -> str:
    """What FFmpeg says, without the path that it adds."""
    return str(getattr(error, "strerror", None) or error)


def _unreadable(name: str, why: str) -> PermanentError:
    return PermanentError(
        "video_unreadable",
        f"{name} cannot be read as a video: {why}.",
        "Check that it plays; an MP4 that was cut off while copying lacks its index: upload the "
        "whole file, or convert it with ffmpeg to MP4 (H.264).",
    )
