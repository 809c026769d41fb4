"""A session to try things with: consistent recordings of a made-up spine, and the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Progress, no_progress
from cis_tasks.spine.rig import Camera as RigCamera
from cis_tasks.spine.rig import Rig, Tag
from cis_tasks.spine.synthetic.footage import TAG_SIZE_M, Camera, Scene, draw_camera, film, tag_path
from cis_tasks.spine.synthetic.motion import Array, draw_motion
from cis_tasks.spine.synthetic.sensors import Clock, Mount, Samples, draw_mounts, measure

SHORTEST_S, LONGEST_S = 4.0, 600.0
QUIET_S = 1.0
MARGIN_S = 1.5  # the sensors record before and after the camera does
OFFSET_S = (0.2, 0.6)
RATE_PPM = (-600.0, 600.0)
DIGITS = 8


@dataclass(frozen=True)
class Sample:
    """The files of a sample session.

    Attributes:
        session: its name.
        sensor_data: readings of all sensors.
        rig: camera and tags.
        video_footage: the video.
        truth: what a calibration should find.
    """

    session: str
    sensor_data: Path
    rig: Path
    video_footage: Path
    truth: Path


def write_sample(
    folder: Path,
    *,
    session: str = "sample",
    duration_s: float = 12.0,
    seed: int = 0,
    width: int = 1280,
    height: int = 720,
    fps: int = 30,
    progress: Progress = no_progress,
) -> Sample:
    """Write a session in which a person sways, bends and twists, as if it had been recorded.

    Four segments move as one chain; a sensor on each measures turning rate and specific force
    with noise, bias, a mounting of its own and a clock that differs from the camera's; a camera
    behind the person films the tags on the sensors with motion blur and noise. The same
    arguments give the same session.

    Args:
        folder: where to; made where it does not exist.
        session: its name.
        duration_s: length of the video.
        seed: another seed is another session.
        width: of the video, pixels.
        height: of the video, pixels.
        fps: frames per second.
        progress: told the stages ``sensors`` and ``video``.

    Raises:
        PermanentError: an argument makes no sense, or the folder cannot be written to.
    """
    _check(session, duration_s, width, height, fps)
    sample = _places(folder, session)
    rng = np.random.default_rng(seed)
    motion = draw_motion(rng, QUIET_S)
    mounts = draw_mounts(rng, motion)
    scene = Scene(motion, mounts, draw_camera(rng, width, height))
    clock = Clock(float(rng.uniform(*OFFSET_S)), 1.0 + 1e-6 * float(rng.uniform(*RATE_PPM)))
    frames = round(duration_s * fps)
    progress("sensors")
    span_s = (-MARGIN_S, duration_s + MARGIN_S)
    samples = [
        measure(motion, i, mount, clock, span_s=span_s, rng=rng) for i, mount in enumerate(mounts)
    ]
    try:
        _write_readings(samples, sample.sensor_data)
        sample.rig.write_text(rig_of(scene.camera, mounts).to_json() + "\n")
        truth = truth_of(session, scene, clock, np.arange(frames) / fps)
        sample.truth.write_text(json.dumps(truth) + "\n")
        film(scene, frames, Fraction(fps), sample.video_footage, seed=seed, progress=progress)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return sample


def rig_of(camera: Camera, mounts: tuple[Mount, ...]) -> Rig:
    """The rig file that goes with a sample; it knows how each tag sits on its segment."""
    return Rig(
        camera=RigCamera(
            matrix=_rounded(camera.matrix),
            distortion=(0.0, 0.0, 0.0, 0.0, 0.0),
            width=camera.width,
            height=camera.height,
        ),
        tag_size_m=TAG_SIZE_M,
        tags={
            mount.tag: Tag(
                sensor=mount.sensor,
                segment=mount.segment,
                R_tag_segment=_rounded(mount.R_segment_tag.T),
            )
            for mount in mounts
        },
        segment_order=tuple(mount.segment for mount in mounts),
    )


def truth_of(session: str, scene: Scene, clock: Clock, times_s: Array) -> dict[str, Any]:
    """What a calibration should find: clock, mountings, biases, and angles at ``times_s``."""
    angles = np.degrees(scene.motion.angles_rad(times_s))
    seen = tag_path(scene, times_s).R_camera_tag
    segments = [segment.name for segment in scene.motion.segments]
    return {
        "session": session,
        "offset_s": clock.offset_s,
        "rate": clock.rate,
        "time_s": _rounded(times_s),
        "sensors": [
            {
                "sensor": mount.sensor,
                "tag": mount.tag,
                "segment": mount.segment,
                "R_sensor_tag": _rounded(mount.R_sensor_tag),
                "gyro_bias_rad_s": _rounded(mount.gyro_bias),
            }
            for mount in scene.mounts
        ],
        "pairs": [
            {
                "caudal": segments[index - 1],
                "cranial": segments[index],
                "cardan_deg": _rounded(angles[index].T),
                "R_caudal_cranial_tag": _rounded(
                    np.swapaxes(seen[index - 1], -1, -2) @ seen[index]
                ),
            }
            for index in range(1, len(segments))
        ],
    }


def _check(session: str, duration_s: float, width: int, height: int, fps: int) -> None:
    wrong = None
    if not session.strip() or "/" in session or session in {".", ".."}:
        wrong = f"{session!r} cannot name a session"
    elif not SHORTEST_S <= duration_s <= LONGEST_S:
        wrong = f"{duration_s:g} s is not between {SHORTEST_S:g} s and {LONGEST_S:g} s"
    elif min(width, height) < 240 or max(width, height) > 4096 or width % 4 or height % 4:
        wrong = f"{width} × {height} pixels is not between 240 and 4096 in steps of 4"
    elif not 5 <= fps <= 240:
        wrong = f"{fps} frames per second is not between 5 and 240"
    if wrong:
        raise PermanentError("sample_arguments", f"No sample can be made: {wrong}.")


def _places(folder: Path, session: str) -> Sample:
    sample = Sample(
        session,
        folder / "sensor_data" / f"{session}.csv",
        folder / "sensor_data" / f"{session}.json",
        folder / "video_footage" / f"{session}.mp4",
        folder / "truth" / f"{session}.json",
    )
    try:
        for path in (sample.sensor_data, sample.video_footage, sample.truth):
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return sample


def _unwritable(folder: Path, error: OSError) -> PermanentError:
    return PermanentError(
        "folder_unwritable",
        f"The sample cannot be written into {folder}: {error.strerror}.",
        "Choose a folder that can be written to, with some 20 MB free.",
    )


def _write_readings(samples: list[Samples], path: Path) -> None:
    """One row per sensor and instant, by time: the canonical layout."""
    tables = [
        pl.DataFrame(
            {
                "timestamp_s": samples_of.times_s,
                "sensor_id": [samples_of.sensor] * len(samples_of.times_s),
                **{f"gyr_{axis}": samples_of.gyr[:, i] for i, axis in enumerate("xyz")},
                **{f"acc_{axis}": samples_of.acc[:, i] for i, axis in enumerate("xyz")},
            }
        )
        for samples_of in samples
    ]
    table = pl.concat(tables).sort("timestamp_s", "sensor_id")
    numbers = [name for name in table.columns if name not in {"timestamp_s", "sensor_id"}]
    table.with_columns(pl.col("timestamp_s").round(6), pl.col(numbers).round_sig_figs(7)).write_csv(
        path
    )


def _rounded(values: Array) -> Any:
    return np.round(values, DIGITS).tolist()
