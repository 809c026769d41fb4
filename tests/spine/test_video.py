from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from cis_tasks.errors import PermanentError
from cis_tasks.spine.video import Video, upright, upright_corners


def write_video(path, pts, *, rate=30, pixels="yuv420p", codec="libx264", **options):
    """Frames whose brightness says which they are, at the given presentation times."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.time_base = stream.codec_context.time_base = Fraction(1, 600)
        for k, at in enumerate(pts):
            grey = np.full((48, 64), 30 + 4 * k % 200, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="gray").reformat(format=pixels)
            frame.pts, frame.time_base = at, Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(path):
    with Video(path) as video:
        frames = [(frame.time_s, float(frame.grey.mean())) for frame in video]
        return frames, video


def test_times_are_those_in_the_file_not_index_over_rate(tmp_path):
    uneven = [0, 20, 40, 100, 120, 260, 280, 300]
    frames, video = read(write_video(tmp_path / "a.mp4", uneven))
    np.testing.assert_allclose([time for time, _ in frames], np.array(uneven) / 600, atol=1e-4)
    studio = 16 + (30 + 4 * np.arange(8)) * 219 / 255  # the range that video keeps grey in
    np.testing.assert_allclose([grey for _, grey in frames], studio, atol=2)
    assert (video.width, video.height, video.damaged) == (64, 48, 0)


@pytest.mark.parametrize(
    ("name", "pixels", "codec"),
    [
        ("a.mp4", "yuv444p", "libx264"),
        ("a.mkv", "yuv420p10le", "libx264"),
        ("a.avi", "bgr24", "rawvideo"),
        ("a.mov", "yuvj420p", "mjpeg"),
    ],
)
def test_every_usual_pixel_format_gives_the_same_grey(tmp_path, name, pixels, codec):
    path = write_video(tmp_path / name, range(0, 200, 20), pixels=pixels, codec=codec)
    greys = [grey for _, grey in read(path)[0]]
    assert len(greys) == 10
    assert np.corrcoef(greys, np.arange(10))[0, 1] > 0.999
    assert np.ptp(greys) == pytest.approx(36, rel=0.25)


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "walk.mp4"
    path.touch()
    with pytest.raises(PermanentError, match=r"walk\.mp4 is empty") as caught:
        Video(path)
    assert caught.value.code == "video_empty"


def test_bytes_that_are_no_video_are_unreadable(tmp_path):
    path = tmp_path / "walk.mp4"
    path.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(PermanentError, match=r"walk\.mp4") as caught:
        Video(path)
    assert caught.value.code == "video_unreadable"


def test_a_file_without_its_index_is_unreadable_and_the_hint_says_why(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", range(0, 6000, 20)).read_bytes()
    path = tmp_path / "walk.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PermanentError) as caught:
        Video(path)
    assert caught.value.code == "video_unreadable"
    assert "cut off" in caught.value.hint


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "walk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(PermanentError, match="no video stream"):
        Video(path)


@pytest.mark.parametrize(("name", "flags"), [("a.mkv", {}), ("a.mp4", {"movflags": "faststart"})])
def test_a_tail_that_was_cut_off_leaves_the_frames_before_it(tmp_path, name, flags):
    whole = write_video(tmp_path / name, range(0, 6000, 20), **flags)
    data = whole.read_bytes()
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(data[: int(len(data) * 0.7)])
    frames, video = read(cut)
    assert 0.3 * 300 < len(frames) < 300
    assert video.expected_s == pytest.approx(10, abs=0.2)
    times = np.array([time for time, _ in frames])
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(times * 30, (times * 30).round(), atol=0.05)


CORNER = {0: "top left", 1: "bottom left", 2: "bottom right", 3: "top right"}


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_video_comes_as_stored_and_says_how_it_is_shown(tmp_path, turns):
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90 * turns)
        grey = np.full((48, 64), 40, np.uint8)
        grey[:24, :32] = 220  # top left, as stored
        for k in range(10):
            frame = av.VideoFrame.from_ndarray(grey, format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with Video(path) as video:
        image = next(iter(video)).grey.copy()
        assert (video.width, video.height) == (64, 48)
    shown = upright(image, video.turns)
    bright = np.argwhere(shown > 130).mean(0) / shown.shape
    vertical = "top" if bright[0] < 0.5 else "bottom"
    assert f"{vertical} {'left' if bright[1] < 0.5 else 'right'}" == CORNER[turns]
    at = upright_corners(np.array([10.0, 5.0]), (64, 48), video.turns).astype(int)
    assert shown[at[1], at[0]] > 130


def test_hevc_is_read(tmp_path):
    path = write_video(tmp_path / "a.mp4", range(0, 200, 20), codec="libx265")
    frames, video = read(path)
    assert len(frames) == 10
    assert video.damaged == 0


def test_damage_in_the_middle_costs_only_its_frames(tmp_path):
    path = write_video(tmp_path / "a.mkv", range(0, 12_000, 20))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    frames, _ = read(path)
    assert frames[0][0] == 0
    assert frames[-1][0] > 15
    assert len(frames) > 300
