from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest

from cis_tasks.errors import PermanentError
from cis_tasks.spine.rig import Camera, Rig, read_rig
from cis_tasks.spine.video import upright_corners

GOOD: dict[str, Any] = {
    "camera": {
        "matrix": [[1000.0, 0.0, 640.0], [0.0, 1000.0, 360.0], [0.0, 0.0, 1.0]],
        "distortion": [0, 0, 0, 0, 0],
        "width": 1280,
        "height": 720,
        "readout_s": 0.0,
    },
    "tag_family": "36h11",
    "tag_size_m": 0.06,
    "tags": {
        "7": {"sensor": "b", "segment": "L1"},
        "3": {"sensor": "a", "segment": "sacrum"},
    },
    "segment_order": ["sacrum", "L1"],
}


def write(tmp_path, data):
    path = tmp_path / "walk.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_tags_come_in_the_order_of_the_segments(tmp_path):
    rig = read_rig(write(tmp_path, GOOD))
    assert [(number, tag.sensor) for number, tag in rig.ordered_tags] == [(3, "a"), (7, "b")]


def test_what_is_written_reads_back(tmp_path):
    rig = read_rig(write(tmp_path, GOOD))
    assert read_rig(write(tmp_path, rig.to_json())) == rig


def test_order_follows_the_tags_where_it_is_left_out(tmp_path):
    rig = read_rig(write(tmp_path, {k: v for k, v in GOOD.items() if k != "segment_order"}))
    assert rig.segment_order == ("L1", "sacrum")


def changed(path: str, value: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(GOOD))
    part = data
    *parents, last = path.split("/")
    for key in parents:
        part = part[key]
    part[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("tag_size_m", -1, "tag_size_m"),
        ("tag_size_m", "six", "tag_size_m"),
        ("tag_family", "37h99", "tag_family"),
        ("camera/matrix", [[0, 0, 640], [0, 1000, 360], [0, 0, 1]], "fx, fy"),
        ("camera/distortion", [1, 2, 3], "coefficients"),
        ("camera/readout", 0.02, "camera.readout"),
        ("camera/width", None, "camera.width"),
        ("tags", {}, "tags"),
        ("tags/600", {"sensor": "c", "segment": "T6"}, "600"),
        ("tags/x", {"sensor": "c", "segment": "T6"}, "tags.x"),
        ("tags/8", {"sensor": "a", "segment": "T6"}, "same sensor"),
        ("tags/8", {"sensor": "c", "segment": "L1"}, "same segment"),
        ("segment_order", ["sacrum"], "segment_order"),
        ("tags/3/R_tag_segment", [[1, 0, 0], [0, 1, 0], [0, 0, -1]], "rotation"),
        ("neutral_s", [3, 1], "neutral_s"),
    ],
)
def test_a_senseless_value_is_named(tmp_path, path, value, named):
    with pytest.raises(PermanentError) as caught:
        read_rig(write(tmp_path, changed(path, value)))
    assert caught.value.code == "rig_invalid"
    assert named in caught.value.message
    assert "walk.json" in caught.value.message


@pytest.mark.parametrize("text", ["", "{", '{"camera": ', "not json"])
def test_broken_json_is_unreadable(tmp_path, text):
    with pytest.raises(PermanentError, match=r"walk\.json") as caught:
        read_rig(write(tmp_path, text))
    assert caught.value.code == "rig_unreadable"


def test_bytes_that_are_no_text_are_unreadable(tmp_path):
    path = tmp_path / "walk.json"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(PermanentError, match="not text") as caught:
        read_rig(path)
    assert caught.value.code == "rig_unreadable"


@pytest.mark.parametrize("data", ["[]", "3", '"rig"', '{"tags": []}', '{"tags": {"1": 2}}'])
def test_json_of_another_shape_is_invalid(tmp_path, data):
    with pytest.raises(PermanentError) as caught:
        read_rig(write(tmp_path, data))
    assert caught.value.code == "rig_invalid"


def test_a_rig_can_be_made_in_python():
    assert Rig.model_validate(GOOD).camera.intrinsics[0, 0] == 1000


def test_a_rig_without_camera_values_is_told_how_to_find_them(tmp_path):
    for data in (changed("camera/matrix", None), {k: v for k, v in GOOD.items() if k != "camera"}):
        with pytest.raises(PermanentError) as caught:
            read_rig(write(tmp_path, data))
        assert caught.value.code == "intrinsics_missing"
        assert "cis rig calibrate" in caught.value.hint


@pytest.mark.parametrize(
    ("matrix", "named"),
    [
        ([[1.0, 0, 640], [0, 1.0, 360], [0, 0, 1]], "field of view"),
        ([[90_000.0, 0, 640], [0, 90_000.0, 360], [0, 0, 1]], "field of view"),
        ([[1000.0, 0, 640], [0, 500.0, 360], [0, 0, 1]], "square"),
        ([[1000.0, 0, 0], [0, 1000.0, 0], [0, 0, 1]], "middle"),
        ([[3000.0, 0, 1920], [0, 3000.0, 1080], [0, 0, 1]], "middle"),
    ],
)
def test_camera_values_of_no_real_camera_are_refused(tmp_path, matrix, named):
    with pytest.raises(PermanentError) as caught:
        read_rig(write(tmp_path, changed("camera/matrix", matrix)))
    assert caught.value.code == "intrinsics_implausible"
    assert named in caught.value.message


def pixels(camera: Camera, points: np.ndarray) -> np.ndarray:
    nothing = np.zeros(3)
    seen = cv2.projectPoints(
        points, nothing, nothing, camera.intrinsics, np.array(camera.distortion)
    )
    return seen[0][:, 0]


LENS = Camera(
    matrix=((1000.0, 0.0, 610.0), (0.0, 990.0, 380.0), (0.0, 0.0, 1.0)),
    distortion=(-0.1, 0.02, 0.01, -0.006, 0.001, 0.0, 0.0, 0.0, 0.01, 0.002, -0.004, 0.003),
    width=1280,
    height=720,
)
POINTS = np.random.default_rng(0).uniform([-0.4, -0.25, 1], [0.4, 0.25, 1.5], (20, 3))


def test_a_resized_video_is_seen_by_a_scaled_camera():
    small = (pixels(LENS, POINTS) + 0.5) * 0.5 - 0.5
    np.testing.assert_allclose(pixels(LENS.resized(640, 360), POINTS), small, atol=1e-9)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_camera_calibrated_on_the_picture_as_shown_is_turned_back(turns):
    stored = LENS.turned_back(turns)
    # What showing does to the picture, it does to the world as the camera sees it.
    turn = np.linalg.matrix_power(np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0, 0, 1.0]]), turns)
    shown = upright_corners(pixels(stored, POINTS @ turn), (stored.width, stored.height), turns)
    np.testing.assert_allclose(shown, pixels(LENS, POINTS), atol=1e-6)


def test_a_rig_is_fitted_to_the_video():
    rig = Rig.model_validate(GOOD)
    assert rig.for_video("a.mp4", 1280, 720) is rig
    assert rig.for_video("a.mp4", 3840, 2160).camera.matrix[0][0] == 3000
    portrait = rig.model_copy(update={"camera": rig.camera.turned_back(1)})
    assert portrait.for_video("a.mp4", 1280, 720, turns=3).camera == rig.camera
    with pytest.raises(PermanentError, match="turned by 90") as caught:
        rig.for_video("a.mp4", 720, 1280)
    assert caught.value.code == "video_size"
    with pytest.raises(PermanentError, match="cut off"):
        rig.for_video("a.mp4", 1280, 960)


@pytest.mark.parametrize(
    ("recording", "named"),
    [
        ({"columns": {"gyr_x": "a", "gyr_y": "b", "gyr_z": "c"}}, "time"),
        ({"columns": {"time": "t", "gyr_x": "a"}}, "gyr_y, gyr_z"),
        ({"columns": {"speed": "t"}}, "columns"),
        ({"gyr_unit": "rpm"}, "gyr_unit"),
        ({"rate_hz": 0}, "rate_hz"),
    ],
)
def test_a_form_of_the_recording_that_cannot_be_is_named(tmp_path, recording, named):
    with pytest.raises(PermanentError) as caught:
        read_rig(write(tmp_path, {**GOOD, "recording": recording}))
    assert caught.value.code == "rig_invalid"
    assert named in caught.value.message
