from __future__ import annotations

import json
from typing import Any

import pytest

from cis_tasks.errors import PermanentError
from cis_tasks.spine.rig import Rig, read_rig

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
