"""The rig's tools: what they print is found again, and what they find is what was there."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
from filmed_board import DOTS_PER_MM, film, poses, printed

from cis_tasks.errors import PermanentError
from cis_tasks.spine.rig import Rig
from cis_tasks.spine.rigging.advice import advise, describe
from cis_tasks.spine.rigging.board import Board, calibrate_camera
from cis_tasks.spine.rigging.sheets import (
    Label,
    labels_of,
    tag_pages,
    write_board,
    write_tags,
)


@pytest.mark.parametrize(("family", "size_m"), [("36h11", 0.06), ("25h9", 0.04), ("16h5", 0.03)])
def test_printed_tags_are_found_at_their_true_size(family, size_m):
    labels = [Label(2), Label(0, "sacrum"), Label(5)]
    (page,) = tag_pages(family, size_m, labels)
    codes = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_APRILTAG_{family}"))
    corners, ids, _ = cv2.aruco.ArucoDetector(codes).detectMarkers(printed(page))
    assert sorted(np.ravel(ids)) == [0, 2, 5]
    for quad in corners:
        square = np.reshape(quad, (4, 2))
        sides = np.linalg.norm(np.roll(square, -1, 0) - square, axis=1) / DOTS_PER_MM
        np.testing.assert_allclose(sides, 1000 * size_m, atol=0.3)
        assert square[0, 0] < square[1, 0]  # upright
        assert square[0, 1] < square[3, 1]


def test_the_bar_on_a_sheet_measures_100_mm():
    (page,) = tag_pages("36h11", 0.06, [Label(0)], "letter")
    image = printed(page)
    assert image.shape == (round(279.4 * DOTS_PER_MM), round(215.9 * DOTS_PER_MM))
    line = image[image.shape[0] - round(8.6 * DOTS_PER_MM)] < 128
    assert line.sum() / DOTS_PER_MM == pytest.approx(100, abs=0.3)


def test_many_tags_take_several_pages_of_true_size(tmp_path):
    path = tmp_path / "tags.pdf"
    assert write_tags(path, "36h11", 0.06, [Label(k) for k in range(20)]) == 4
    boxes = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", path.read_bytes())
    assert len(boxes) == 4
    for width, height in boxes:
        assert float(width) / 72 * 25.4 == pytest.approx(210, abs=0.01)
        assert float(height) / 72 * 25.4 == pytest.approx(297, abs=0.01)


def test_equal_sheets_are_equal_bytes(tmp_path):
    for name in ("a.pdf", "b.pdf"):
        write_board(tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


@pytest.mark.parametrize(
    ("family", "size_m", "tags", "paper", "named"),
    [
        ("16h5", 0.04, [30], "a4", "0–29"),
        ("36h11", 0.3, [0], "a4", "do not fit"),
        ("36h11", 0.06, [], "a4", "no tag"),
        ("36h11", 0.06, [0], "a9", "a9"),
    ],
)
def test_a_sheet_that_cannot_be_is_told(tmp_path, family, size_m, tags, paper, named):  # noqa: PLR0917
    with pytest.raises(PermanentError, match=named) as caught:
        write_tags(tmp_path / "tags.pdf", family, size_m, [Label(k) for k in tags], paper)
    assert caught.value.code == "sheet_invalid"


def test_the_camera_of_a_board_video_is_found(board_video):
    stages = []
    fit = calibrate_camera(board_video, progress=lambda stage, _=0.0: stages.append(stage))
    found = fit.camera
    assert fit.error_px < 0.5
    assert found.matrix[0][0] == pytest.approx(640, rel=0.005)
    assert found.matrix[1][1] == pytest.approx(640, rel=0.005)
    assert found.matrix[0][2] == pytest.approx(330, abs=4)
    assert found.matrix[1][2] == pytest.approx(235, abs=4)
    assert found.distortion[0] == pytest.approx(-0.12, abs=0.03)
    assert (found.width, found.height) == (640, 480)
    assert list(dict.fromkeys(stages)) == ["views", "fit"]


def test_a_board_that_is_only_seen_straight_on_does_not_do(tmp_path):
    path = tmp_path / "flat.mp4"
    film(path, poses(12, 0.0))
    with pytest.raises(PermanentError) as caught:
        calibrate_camera(path)
    assert caught.value.code == "board_views_alike"
    assert "tilted" in caught.value.hint


def test_another_board_is_not_seen(board_video):
    with pytest.raises(PermanentError) as caught:
        calibrate_camera(board_video, Board(9, 12, 0.03, 0.02))
    assert caught.value.code == "board_not_seen"


def test_a_board_that_cannot_be_is_refused():
    with pytest.raises(PermanentError) as caught:
        Board(5, 7, 0.02, 0.03)
    assert caught.value.code == "board_invalid"


@pytest.fixture
def rig(session) -> Rig:
    return session(sensors=3, duration_s=1).rig


def test_labels_are_the_rigs_tags_upwards(rig):
    assert [label.text for label in labels_of(rig)] == ["sacrum · imu1", "L1 · imu2", "T12 · imu3"]


def test_advice_names_what_is_likely_not_meant(rig):
    data = json.loads(rig.to_json())
    data["tag_size_m"] = 1.2
    data["segment_order"] = ["sacrum", "T12", "L1"]
    notes = " ".join(advise(Rig.model_validate(data)))
    assert "tag of 1200 mm" in notes
    assert "T12 stands before L1" in notes
    assert "no distortion" in notes
    assert "readout_s is 0" in notes
    assert "neutral_s" in notes


def test_a_careful_rig_gets_no_advice(rig):
    data = json.loads(rig.to_json())
    data["camera"] |= {"distortion": [-0.1, 0.02, 0, 0], "readout_s": 0.02}
    data["neutral_s"] = [0, 1]
    careful = Rig.model_validate(data)
    assert advise(careful) == ()
    assert any("T12: tag 2, sensor imu3" in line for line in describe(careful))
