"""The usual mistakes, made on purpose with a good session: is each named, and nothing else?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cis_tasks.errors import PermanentError
from cis_tasks.spine.options import Options
from cis_tasks.spine.preconditions import require_distance
from cis_tasks.spine.quality import AGREEMENT, require_passed
from cis_tasks.spine.readers import read_recording
from cis_tasks.spine.recording import Recording, Track
from cis_tasks.spine.rig import read_rig
from cis_tasks.spine.tags import watch
from cis_tasks.spine.video import Video

if TYPE_CHECKING:
    from spine_accuracy import Session


@dataclass(frozen=True)
class Fault:
    """A mistake: how to make it, the codes that name it, and a word that the text must hold."""

    name: str
    make: Callable[[Session], object]
    codes: tuple[str, ...]
    word: str = ""


def fault_table(session: Session, good: Sequence[Session]) -> list[dict[str, Any]]:
    """One row per fault on ``session``, and one per good session, which must raise none."""
    found = [_outcome(fault, session) for fault in FAULTS]
    for other in good:
        code, says = _result(lambda other=other: _judge(other.calibrate()))
        found.append(
            {"fault": f"none ({other.name})", "code": code, "says": says, "named": code == "none"}
        )
    return found


def _outcome(fault: Fault, session: Session) -> dict[str, Any]:
    code, says = _result(lambda: fault.make(session))
    named = code in fault.codes and fault.word in says
    return {"fault": fault.name, "code": code, "says": says, "named": named}


def _result(make: Callable[[], object]) -> tuple[str, str]:
    try:
        said = make()
    except PermanentError as error:
        parts = [error.message, error.hint]
        return error.code, " ".join(parts[::-1] if error.code == AGREEMENT else parts)
    return ("none", "") if said is None else (str(said), "a warning")


def _judge(calibration: Any) -> None:
    require_passed(calibration)


def _with(session: Session, change: Callable[[Track], Track]) -> Recording:
    tracks = {name: change(track) for name, track in session.recording.tracks.items()}
    return replace(session.recording, tracks=tracks)


def _sensors(change: Callable[[Track], Track]) -> Callable[[Session], object]:
    return lambda session: _judge(session.calibrate(recording=_with(session, change)))


def _one(change: Callable[[Track], Track]) -> Callable[[Session], object]:
    return _sensors(lambda track: change(track) if track.sensor == "imu2" else track)


def _swapped(session: Session) -> None:
    tracks = dict(session.recording.tracks)
    first, second = tracks["imu1"], tracks["imu2"]
    tracks |= {
        "imu1": replace(second, sensor="imu1"),
        "imu2": replace(first, sensor="imu2"),
    }
    _judge(session.calibrate(recording=replace(session.recording, tracks=tracks)))


def _other_session(session: Session) -> None:
    """The same motion played backwards: as brisk, and another."""

    def backwards(track: Track) -> Track:
        return replace(track, gyr=np.ascontiguousarray(track.gyr[::-1]))

    _judge(session.calibrate(recording=_with(session, backwards)))


def _nothing_moves(session: Session) -> None:
    rng = np.random.default_rng(0)

    def still(track: Track) -> Track:
        return replace(track, gyr=0.01 + rng.normal(0, 0.002, track.gyr.shape))

    corners = np.repeat(session.sightings.corners_px[:, :1], len(session.sightings.time_s), 1)
    corners = corners + rng.normal(0, 0.1, corners.shape)
    sightings = replace(session.sightings, corners_px=corners, information=None)
    _judge(session.calibrate(recording=_with(session, still), sightings=sightings))


def _hidden(session: Session) -> object:
    corners = session.sightings.corners_px.copy()
    corners[1, 15:] = np.nan
    _judge(session.calibrate(sightings=replace(session.sightings, corners_px=corners)))
    return None


def _tiny(session: Session) -> object:
    """Tags a third as large: as corners with three times the noise, and their size."""
    rng, sightings = np.random.default_rng(0), session.sightings
    middle = sightings.corners_px.mean(2, keepdims=True)
    corners = middle + (sightings.corners_px - middle) / 4
    corners += rng.normal(0, 0.1, corners.shape)
    calibration = session.calibrate(
        sightings=replace(sightings, corners_px=corners, information=None)
    )
    _judge(calibration)
    return next((gate.code for gate in calibration.gates if not gate.passed), None)


def _tag_size(session: Session) -> None:
    rig = session.rig.model_copy(update={"tag_size_m": 6.0})
    require_distance(session.sightings.side_px, rig, session.sightings.video.file)


def _family(session: Session) -> None:
    rig = session.rig.model_copy(update={"tag_family": "36h10"})
    with Video(_video(session)) as video:
        watch(video, rig, Options(full_search_frames=60))


def _video(session: Session) -> Path:
    return session.folder / f"video_footage/{session.name}.mp4"


def _intrinsics(session: Session) -> None:
    rig = json.loads(session.rig.to_json())
    rig["camera"]["matrix"] = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rig.json"
        path.write_text(json.dumps(rig))
        read_rig(path)


def _cut_video(session: Session) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.mp4"
        path.write_bytes(_video(session).read_bytes()[:200_000])
        with Video(path) as video:
            watch(video, session.rig, Options())


def _broken_csv(session: Session) -> None:
    source = session.folder / f"sensor_data/{session.name}.csv"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "broken.csv"
        path.write_bytes(b"\x00\x01\x02" + source.read_bytes()[:50_000:7])
        read_recording(path)


DISAGREE = (AGREEMENT,)
FAULTS = (
    Fault("two sensors swapped", _swapped, DISAGREE, "imu1 and imu2"),
    Fault("video of another session", _other_session, DISAGREE, "different sessions"),
    Fault(
        "gyroscope in °/s",
        _one(lambda t: replace(t, gyr=np.rad2deg(t.gyr))),
        ("gyro_in_degrees",),
        "imu2",
    ),
    Fault("left-handed axes", _one(lambda t: replace(t, gyr=t.gyr * [1, -1, 1])), DISAGREE, "imu2"),
    Fault(
        "clipped gyroscope",
        _one(lambda t: replace(t, gyr=t.gyr.clip(-0.3, 0.3))),
        DISAGREE,
        "limit",
    ),
    Fault("nothing moves", _nothing_moves, ("nothing_moving",), "±30°"),
    Fault("tag mostly hidden", _hidden, ("tag_rarely_seen",), "L1"),
    Fault(
        "tags too small", _tiny, ("tag_small", "mounting_uncertain", "video_and_sensors_disagree")
    ),
    Fault("wrong tag size", _tag_size, ("tag_size_implausible",)),
    Fault("wrong tag family", _family, ("no_tag_seen",), "36h10"),
    Fault(
        "clocks do not overlap",
        _one(lambda t: replace(t, time_s=t.time_s + 1000.0)),
        ("clocks_do_not_overlap",),
        "imu2",
    ),
    Fault("implausible camera values", _intrinsics, ("intrinsics_implausible",)),
    Fault("video cut off", _cut_video, ("video_unreadable", "video_too_short")),
    Fault(
        "recording damaged",
        _broken_csv,
        ("sensors_not_text", "sensors_unreadable", "sensors_columns", "sensors_bad_rows"),
    ),
    Fault(
        "one sensor dead",
        _one(lambda t: replace(t, gyr=np.zeros_like(t.gyr))),
        ("sensor_dead",),
        "imu2",
    ),
)
