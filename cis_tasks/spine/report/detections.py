"""A contact sheet of the video with the tags that were found."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from cis_tasks.spine.calibration import Calibration, Floats, Thumbnail
from cis_tasks.spine.markup import Markup, element, join
from cis_tasks.spine.report.words import count

THUMBNAIL_PX = 480
THUMBNAILS = 12
JPEG_QUALITY = 72


def show_frames(calibration: Calibration) -> Markup:
    """A few frames with the tags that were found in them."""
    if not calibration.thumbnails:
        return Markup("")
    segments = {sensor.tag: sensor.segment for sensor in calibration.sensors}
    sheet = [_thumbnail(shown, segments) for shown in calibration.thumbnails[:THUMBNAILS]]
    return join(
        element("p", "Frames of the video with the tags that were found; the dot marks a tag's "
                "own top left corner."),
        element("div", *sheet, class_="sheet"),
    )  # fmt: skip


def _thumbnail(shown: Thumbnail, segments: dict[int, str]) -> Markup:
    image, scale = shown.image, min(1.0, THUMBNAIL_PX / max(shown.image.shape))
    if scale < 1:
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, np.uint8)
    height, width = image.shape
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    data = base64.b64encode(jpeg.tobytes()).decode("ascii")
    tags = sorted(shown.corners_px)
    found = ", ".join(f"{tag} ({segments.get(tag, 'not in the rig')})" for tag in tags) or "none"
    picture = element(
        "img",
        src=f"data:image/jpeg;base64,{data}",
        alt=f"Video frame at {shown.time_s:.2f} s; tags found: {found}.",
        width=str(width),
        height=str(height),
    )
    drawn = [_outline(tag, shown.corners_px[tag] * scale, height) for tag in tags]
    overlay = element(
        "svg", *drawn, viewBox=f"-0.5 -0.5 {width} {height}", aria_hidden="true", focusable="false"
    )
    caption = element("figcaption", f"{shown.time_s:.2f} s · {count(len(tags), 'tag')}")
    return element("figure", element("div", picture, overlay, class_="frame"), caption)


def _outline(tag: int, corners: Floats, height: int) -> Markup:
    middle = float(corners[:, 0].mean())
    below = float(corners[:, 1].max()) + 15
    line = below if below < height - 3 else float(corners[:, 1].min()) - 5
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in corners)
    return join(
        element("polygon", points=points),
        element("circle", cx=f"{corners[0, 0]:.1f}", cy=f"{corners[0, 1]:.1f}", r="3"),
        element("text", str(tag), x=f"{middle:.1f}", y=f"{line:.1f}"),
    )
