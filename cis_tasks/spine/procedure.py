"""The whole calibration: files in, a calibration out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Progress, no_progress
from cis_tasks.spine.align import (
    Overlap,
    Spans,
    find_overlaps,
    find_spans,
    find_start,
    misfit,
)
from cis_tasks.spine.anchor import extend
from cis_tasks.spine.angles import segment_axes, spinal_angles
from cis_tasks.spine.calibration import Calibration
from cis_tasks.spine.devices import choose_device
from cis_tasks.spine.evidence import describe_sensors, describe_sync
from cis_tasks.spine.faults import find_faults
from cis_tasks.spine.gravity import find_gravity
from cis_tasks.spine.gyro import Gyro
from cis_tasks.spine.options import Options
from cis_tasks.spine.pose import find_poses
from cis_tasks.spine.posture import find_posture
from cis_tasks.spine.preconditions import (
    require_alive,
    require_common_time,
    require_distance,
    require_frames,
    require_motion,
    require_no_gaps,
    require_units,
)
from cis_tasks.spine.quality import AGREEMENT, check, explain
from cis_tasks.spine.readers import read_recording
from cis_tasks.spine.recording import Recording, Track
from cis_tasks.spine.rig import Rig, read_rig
from cis_tasks.spine.solve import solve
from cis_tasks.spine.strangers import name_what_is_seen
from cis_tasks.spine.tags import Sightings, watch
from cis_tasks.spine.video import Video
from cis_tasks.spine.viewing import fit_rig, show_upright

MARGIN_S = 1.0  # of the recording kept around the video; the clocks' rate moves less
RIVAL = 0.7  # share of the best correlation from which on another offset is looked at too


def calibrate(
    sensors: Path,
    video: Path,
    rig: Path | Rig,
    *,
    options: Options | None = None,
    progress: Progress = no_progress,
) -> Calibration:
    """Calibrate a spine's IMUs by a video of the tags on them.

    Args:
        sensors: the recording, in any form that ``readers.read_recording`` reads.
        video: the video of the same motion; anything that FFmpeg decodes.
        rig: camera, tags and segments; a file or a ``Rig``.
        options: tunables; the defaults suit most sessions.
        progress: told the stages ``read``, ``detect``, ``align``, ``solve`` and ``angles``.

    Returns:
        The calibration with its quality gates. Look at ``passed`` before using it.

    Raises:
        PermanentError: the input cannot be calibrated at all.
    """
    options = options or Options()
    progress("read")
    rig = rig if isinstance(rig, Rig) else read_rig(rig)
    recording = read_recording(sensors, options.max_bad_rows, rig)
    recording.select([tag.sensor for _, tag in rig.ordered_tags])  # before the long part
    progress("detect")
    with Video(video) as footage:
        rig, notes = fit_rig(rig, footage)
        try:
            sightings = watch(footage, rig, options, progress)
        except PermanentError as error:
            name_what_is_seen(error, video, rig)
            raise
    require_distance(sightings.side_px, rig, footage.file)
    sightings = replace(
        sightings,
        thumbnails=show_upright(sightings.thumbnails, footage.turns),
        warnings=(*notes, *sightings.warnings),
    )
    return calibrate_sightings(recording, sightings, rig, options, progress)


def calibrate_sightings(
    recording: Recording,
    sightings: Sightings,
    rig: Rig,
    options: Options,
    progress: Progress = no_progress,
) -> Calibration:
    """The same from tags that have been found in the video already."""
    progress("align")
    device = choose_device(options)
    tracks = recording.select([tag.sensor for _, tag in rig.ordered_tags])
    time_s = torch.tensor(sightings.row_time_s(rig.camera), device=device)
    poses = find_poses(
        sightings.corners_px, rig.camera, rig.tag_size_m, device, sightings.information
    )
    spans = find_spans(time_s, poses)
    overlaps = _overlaps(spans, tracks, recording.file, sightings.video.file, options)
    require_motion(tracks, overlaps[0], recording.file)
    require_alive(_around(spans, tracks, overlaps[0]), recording.file)
    require_units(spans, tracks, overlaps[0], recording.file)
    near, gyro, overlap = _best_overlap(spans, tracks, overlaps, recording.file)
    require_no_gaps(near, recording.file, options.max_gap_s)
    start = find_start(spans, time_s, poses, gyro, overlap.offset_s)

    progress("solve")
    used = (poses.ok & gyro.covers(time_s + start.offset_s)).sum(1).tolist()
    require_frames(used, rig, recording.file)
    solution = solve(time_s, poses, gyro, start, options)

    progress("angles")
    found = describe_sensors(
        rig=rig,
        sightings=sightings,
        tracks=near,
        time_s=time_s,
        poses=poses,
        gyro=gyro,
        solution=solution,
        options=options,
    )
    sync = describe_sync(solution)
    gravity = find_gravity(sightings.time_s, sync, found, near)
    up_camera = None if gravity is None else gravity.up_camera
    axes = segment_axes(rig, sightings.time_s, found, up_camera)
    calibration = Calibration(
        time_s=sightings.time_s,
        sync=sync,
        sensors=found,
        angles=spinal_angles(rig, sightings.time_s, found, axes),
        gates=(),
        warnings=(*recording.warnings, *sightings.warnings, *_remarks(rig)),
        video=sightings.video,
        rig=rig,
        options=options,
        sensors_file=recording.file,
        thumbnails=sightings.thumbnails,
        up_camera=up_camera,
        acc_bias=None if gravity is None else gravity.acc_bias,
        posture=find_posture(rig, found, axes, gravity),
    )
    gates = check(calibration)
    if all(gate.passed or gate.level == "warn" for gate in gates):
        calibration = replace(calibration, beyond=extend(calibration, tracks, axes))
    if not all(gate.passed for gate in gates if gate.code == AGREEMENT):
        faults = find_faults(spans, tracks, gyro, solution, options.min_overlap_s)
        gates = explain(gates, faults)
    return replace(calibration, gates=gates)


def _overlaps(
    spans: Spans, tracks: Sequence[Track], sensors_file: str, video_file: str, options: Options
) -> tuple[Overlap, ...]:
    require_common_time(tracks, sensors_file)
    overlaps = find_overlaps(spans, tracks, options.min_overlap_s)
    if not overlaps:
        raise PermanentError(
            "too_little_overlap",
            f"{sensors_file} and {video_file} can share at most a moment: there are less than "
            f"{options.min_overlap_s:g} s of recording or of frames in which the tags are seen.",
            "Record and film the same 10–20 s, with the tags in view.",
        )
    best, *others = overlaps
    rivals = [other for other in others if other.correlation >= RIVAL * best.correlation]
    return (best, *rivals)


def _best_overlap(
    spans: Spans, tracks: Sequence[Track], overlaps: Sequence[Overlap], file: str
) -> tuple[tuple[Track, ...], Gyro, Overlap]:
    """The overlap that explains the spans best, with the readings around the video there."""
    trials = []
    for overlap in overlaps:
        near = _around(spans, tracks, overlap)
        if silent := [track.sensor for track in near if len(track.time_s) < 2]:
            continue
        gyro = Gyro.stack([t.time_s for t in near], [t.gyr for t in near], spans.start_s.device)
        heading = gyro.integrate(torch.zeros_like(gyro.rate[:, 0]))
        trials.append((misfit(spans, heading, gyro, overlap.offset_s), near, gyro, overlap))
    if not trials:
        raise PermanentError(
            "clocks_do_not_overlap",
            f"Sensor {', '.join(silent)} of {file} was not recording while the others saw the "
            f"motion of the video.",
            "Start every sensor before the video and stop it afterwards, all on one clock.",
        )
    return min(trials, key=lambda trial: trial[0])[1:]


def _around(spans: Spans, tracks: Sequence[Track], overlap: Overlap) -> tuple[Track, ...]:
    start = float(spans.start_s.min()) + overlap.offset_s - MARGIN_S
    end = float(spans.end_s.max()) + overlap.offset_s + MARGIN_S
    return tuple(track.between(start, end) for track in tracks)


def _remarks(rig: Rig) -> list[str]:
    remarks = []
    if len(rig.tags) == 1:
        remarks.append("The rig has a single sensor: there are no angles between segments.")
    bare = [tag.segment for _, tag in rig.ordered_tags if tag.R_tag_segment is None]
    if bare and rig.neutral_s is None and len(rig.tags) > 1:
        remarks.append(
            f"The rig gives no segment axes for {', '.join(bare)}: their tags are taken as stuck "
            f"upright on the back, so that the angles include how far they are not."
        )
    return remarks
