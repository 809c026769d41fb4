"""Sessions for all spine tests; `made_up` says what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filmed_board import film, poses
from made_up import Files, Plan, Session, make_session, render, write_csv

from cis_tasks.spine.options import Options


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The tests' problems are small: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def session() -> Callable[..., Session]:
    """Make up a session: ``session(duration_s=5, …)`` with the fields of ``Plan``."""
    return lambda **wishes: make_session(Plan(**wishes))


@pytest.fixture(scope="session")
def cpu() -> Options:
    return Options(device="cpu")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A short session with a real, rendered video of two tags."""
    folder = tmp_path_factory.mktemp("session")
    made = make_session(
        Plan(sensors=2, duration_s=5.0, width=640, height=360, focal_px=700.0, tag_size_m=0.08)
    )
    paths = Files(folder / "walk.csv", folder / "walk.mp4", folder / "walk.json", made)
    write_csv(made.recording, paths.sensors)
    render(made, paths.video)
    paths.rig.write_text(made.rig.to_json())
    return paths


@pytest.fixture(scope="session")
def board_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration board, filmed from many sides; `filmed_board` knows the camera."""
    path = tmp_path_factory.mktemp("board") / "board.mp4"
    film(path, poses(16, 0.6))
    return path
