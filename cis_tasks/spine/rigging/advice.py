"""What a rig that is valid may still have wrong, in plain sentences."""

from __future__ import annotations

import re

from cis_tasks.spine.rig import Rig

SMALLEST_M, LARGEST_M = 0.012, 0.15  # of tags that people wear
LEVELS = ("sacrum", "pelvis", "S", "L", "T", "C", "head")  # upwards
REGION_LEVELS = 20  # more than any region of the spine has


def advise(rig: Rig) -> tuple[str, ...]:
    """Sentences on what is likely not meant; none where nothing stands out."""
    return (*_camera(rig), *_tags(rig), *_order(rig), *_axes(rig))


def describe(rig: Rig) -> tuple[str, ...]:
    """The rig in a few lines, for people."""
    camera = rig.camera
    lens = "with distortion" if any(camera.distortion) else "without distortion"
    shutter = f"rolling, {1e3 * camera.readout_s:g} ms" if camera.readout_s else "global"
    lines = [
        f"camera {camera.width}×{camera.height}, {camera.field_of_view_deg:.0f}° wide, {lens}",
        f"shutter: {shutter}",
        f"tags {rig.tag_family}, {1e3 * rig.tag_size_m:g} mm",
    ]
    lines += [
        f"{tag.segment}: tag {number}, sensor {tag.sensor}"
        + (", segment axes given" if tag.R_tag_segment else "")
        for number, tag in reversed(rig.ordered_tags)
    ]
    return tuple(lines)


def _camera(rig: Rig) -> list[str]:
    notes = []
    if not any(rig.camera.distortion):
        notes.append(
            "The camera has no distortion: real lenses have some, and it costs up to a degree. "
            "`cis rig calibrate VIDEO` finds it."
        )
    if rig.camera.readout_s == 0:
        notes.append(
            "readout_s is 0, as for a global shutter. Phones and webcams read their rows one "
            "after the other, in some 0.01–0.03 s; unknown, it shifts the clocks by as much as "
            "2 ms."
        )
    return notes


def _tags(rig: Rig) -> list[str]:
    if SMALLEST_M <= rig.tag_size_m <= LARGEST_M:
        return []
    told = f"tag_size_m is {rig.tag_size_m:g}, a tag of {1e3 * rig.tag_size_m:g} mm"
    return [f"{told}. It is the side of the black square, in metres."]


def _order(rig: Rig) -> list[str]:
    levels = [_level(segment) for segment in rig.segment_order]
    pairs = zip(rig.segment_order, rig.segment_order[1:], levels, levels[1:], strict=False)
    return [
        f"segment_order runs from the sacrum upwards, but {below} stands before {above}."
        for below, above, low, high in pairs
        if low is not None and high is not None and low > high
    ]


def _level(segment: str) -> int | None:
    """How high a segment is, where its name is a usual one: L5 < L1 < T12 < … < head."""
    if segment.lower() in {"sacrum", "pelvis", "hip"}:
        return 0
    if segment.lower() == "head":
        return REGION_LEVELS * len(LEVELS)
    found = re.fullmatch(r"([SLTC])(\d{1,2})", segment.strip(), re.IGNORECASE)
    if not found:
        return None
    return REGION_LEVELS * LEVELS.index(found[1].upper()) - int(found[2])


def _axes(rig: Rig) -> list[str]:
    bare = [tag.segment for _, tag in rig.ordered_tags if tag.R_tag_segment is None]
    if not bare or rig.neutral_s is not None:
        return []
    told = f"Nothing says how the tags of {', '.join(bare)} sit on their segments"
    remedy = "Give neutral_s, the video time of standing straight."
    return [f"{told}: they count as stuck upright on the back. {remedy}"]
