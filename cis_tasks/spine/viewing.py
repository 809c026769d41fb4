"""How a video was shot against how the camera was calibrated: resolution and orientation."""

from __future__ import annotations

from dataclasses import replace

from cis_tasks.spine.calibration import Thumbnail
from cis_tasks.spine.rig import Rig
from cis_tasks.spine.video import Video, upright, upright_corners


def fit_rig(rig: Rig, video: Video) -> tuple[Rig, tuple[str, ...]]:
    """The rig with its camera as the video's stored pictures need it, and what to note.

    Raises:
        PermanentError: ``video_size`` where the camera was calibrated in another shape.
    """
    fitted = rig.for_video(video.file, video.width, video.height, video.turns)
    camera = rig.camera
    if {camera.width, camera.height} == {video.width, video.height}:
        return fitted, ()
    note = (
        f"{video.file} has {video.width}×{video.height} pixels, the camera was calibrated at "
        f"{camera.width}×{camera.height}: its values were scaled, which is right as long as both "
        "show the same field of view."
    )
    return fitted, (note,)


def show_upright(thumbnails: tuple[Thumbnail, ...], turns: int) -> tuple[Thumbnail, ...]:
    """The frames for people, turned as players turn them."""
    if turns % 4 == 0:
        return thumbnails
    shown = []
    for thumbnail in thumbnails:
        height, width = thumbnail.image.shape
        corners = {
            tag: upright_corners(place, (width, height), turns)
            for tag, place in thumbnail.corners_px.items()
        }
        image = upright(thumbnail.image, turns)
        shown.append(replace(thumbnail, image=image, corners_px=corners))
    return tuple(shown)
