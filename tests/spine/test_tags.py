from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import render

from cis_tasks.errors import PermanentError
from cis_tasks.spine.options import Options
from cis_tasks.spine.rig import Tag
from cis_tasks.spine.tags import watch
from cis_tasks.spine.video import Video


def look(files, rig=None, options=None, path=None):
    with Video(path or files.video) as video:
        return watch(video, rig or files.session.rig, options or Options())


@pytest.fixture(scope="module")
def sightings(files):
    return look(files)


def test_tags_are_found_where_they_are_in_nearly_every_frame(files, sightings):
    assert sightings.seen.mean() > 0.97
    apart = sightings.corners_px - files.session.sightings.corners_px
    assert np.sqrt(np.nanmean(apart**2)) < 0.15
    np.testing.assert_allclose(sightings.time_s, files.session.sightings.time_s, atol=1e-4)


def test_following_loses_nothing_against_searching_every_frame(files, sightings):
    # A search of every frame that misses a tag: the tracker starts anew each time.
    always = look(files, options=replace(Options(), full_search_frames=1))
    assert sightings.seen.sum() >= 0.99 * always.seen.sum()


def test_the_contact_sheet_marks_the_tags_in_frames_over_the_whole_video(sightings):
    times = [thumbnail.time_s for thumbnail in sightings.thumbnails]
    assert times[0] == 0
    assert times[-1] > 0.8 * sightings.video.duration_s
    assert len(times) == 6
    for thumbnail in sightings.thumbnails:
        assert thumbnail.image.shape == (270, 480)
        for corners in thumbnail.corners_px.values():
            x, y = corners.mean(0).round().astype(int)
            inside = thumbnail.image[y - 8 : y + 9, x - 8 : x + 9]
            assert np.ptp(inside) > 60  # black and white cells, not the flat background


def test_tags_outside_the_rig_are_ignored(files):
    only = {0: files.session.rig.tags[0]}
    rig = files.session.rig.model_copy(update={"tags": only, "segment_order": ("sacrum",)})
    assert look(files, rig).corners_px.shape[0] == 1


def rig_with(files, tags):
    order = tuple(tag.segment for tag in tags.values())
    return files.session.rig.model_copy(update={"tags": tags, "segment_order": order})


def refusal(files, **changes) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        look(files, **changes)
    assert caught.value.hint
    return caught.value


def test_no_tag_seen_is_named_with_family_and_ids(files):
    error = refusal(files, rig=rig_with(files, {77: Tag(sensor="imu1", segment="sacrum")}))
    assert error.code == "no_tag_seen"
    assert "77" in error.message
    assert "36h11" in error.message
    assert "walk.mp4" in error.message


def test_one_tag_that_is_never_seen_is_named(files):
    tags = {**files.session.rig.tags, 77: Tag(sensor="imu3", segment="T6")}
    error = refusal(files, rig=rig_with(files, tags))
    assert error.code == "tag_never_seen"
    assert "77 (T6)" in error.message


@pytest.mark.parametrize(
    ("size", "words"), [((1280, 720), "resolution"), ((360, 640), "turned by 90°")]
)
def test_a_video_of_another_size_than_the_rigs_is_refused(files, size, words):
    update = dict(zip(("width", "height"), size, strict=True))
    camera = files.session.rig.camera.model_copy(update=update)
    error = refusal(files, rig=files.session.rig.model_copy(update={"camera": camera}))
    assert error.code == "video_size"
    assert "640×360" in error.message
    assert words in error.hint


def test_a_cut_off_video_is_used_as_far_as_it_goes_with_a_warning(files, tmp_path):
    whole = tmp_path / "walk.mkv"
    render(files.session, whole)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.8)])
    sightings = look(files, path=cut)
    assert 3.0 < sightings.video.duration_s < 4.5
    assert any("cut off" in warning and "cut.mkv" in warning for warning in sightings.warnings)


def test_too_little_that_is_left_of_a_video_is_refused(files, tmp_path):
    whole = tmp_path / "walk.mkv"
    render(files.session, whole)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.3)])
    error = refusal(files, path=cut)
    assert error.code == "video_too_short"
    assert "cut.mkv" in error.message


def test_progress_runs_from_nothing_to_all(files):
    heard = []
    with Video(files.video) as video:
        watch(
            video, files.session.rig, Options(), lambda stage, part=0.0: heard.append((stage, part))
        )
    parts = [part for stage, part in heard if stage == "detect"]
    assert parts == sorted(parts)
    assert parts[0] < 0.05
    assert parts[-1] > 0.95
