"""``cis spine`` and ``cis rig`` as people type them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cis_tasks.commands.main import main
from cis_tasks.spine.rig import read_rig


def cis(*arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own, without AWS."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-m", "cis_tasks", *map(str, arguments)],
        env={**environment, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture
def here(monkeypatch, capsys):
    """The same in this process: exit code, what was printed, and what went wrong."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cis", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return run


@pytest.fixture(scope="module")
def done(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "results"
    return out, cis("spine", files.sensors, files.video, "--out", out, "--overlay")


def test_a_session_is_calibrated_with_the_rig_beside_it(done):
    out, run = done
    assert run.returncode == 0, run.stderr
    names = {path.name for path in out.iterdir()}
    assert names >= {"calibration.json", "angles.parquet", "angles.csv", "report.html"}
    assert "overlay.mp4" in names
    assert json.loads((out / "calibration.json").read_text())["passed"] is True


def test_the_summary_names_segments_angles_and_files(done):
    out, run = done
    for word in ("passed", "sacrum", "L1/sacrum", "flexion", "not a diagnosis"):
        assert word in run.stdout
    assert str(out / "report.html") in run.stdout.replace("\n", "")


def test_programs_get_json_alone(files, here, tmp_path):
    code, out, _ = here(
        "spine", files.sensors, files.video, "--rig", files.rig, "--out", tmp_path, "--json"
    )
    found = json.loads(out)
    assert code == 0
    assert found["result"]["passed"] is True
    assert str(tmp_path / "report.html") in found["files"]


def test_a_bad_input_is_told_with_its_code(files, here, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    told = ("spine", files.sensors, bad, "--rig", files.rig, "--out", tmp_path / "out")
    code, _, err = here(*told)
    assert code == 1
    assert "video_unreadable" in err
    code, out, _ = here(*told, "--json")
    assert code == 1
    assert json.loads(out)["error"]["code"] == "video_unreadable"


def test_a_missing_rig_is_told_before_anything_is_read(files, here, tmp_path):
    lonely = tmp_path / "alone.csv"
    lonely.write_bytes(files.sensors.read_bytes())
    code, _, err = here("spine", lonely, files.video, "--out", tmp_path / "out")
    assert code == 1
    assert "rig_missing" in err
    assert "cis rig calibrate" in err


def test_a_rig_is_checked_in_plain_words(files, here, tmp_path):
    code, out, _ = here("rig", "check", files.rig)
    assert code == 0
    assert "L1: tag 1, sensor imu2" in out
    assert "no distortion" in out
    broken = tmp_path / "rig.json"
    broken.write_text("{")
    assert here("rig", "check", broken)[0] == 1


def test_tags_and_board_are_printed(files, here, tmp_path):
    assert here("rig", "tags", tmp_path / "a.pdf", "--rig", files.rig)[0] == 0
    assert here("rig", "tags", tmp_path / "b.pdf", "--ids", "1-3,9", "--size-mm", 30)[0] == 0
    assert here("rig", "board", tmp_path / "c.pdf", "--paper", "letter")[0] == 0
    for name in "abc":
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert here("rig", "tags", tmp_path / "d.pdf", "--ids", "x")[0] != 0


def test_a_camera_is_put_into_a_rig_that_is_there_or_a_new_one(board_video, files, here, tmp_path):
    kept = tmp_path / "kept.json"
    kept.write_text(files.rig.read_text())
    for path in (kept, tmp_path / "new.json"):
        assert here("rig", "calibrate", board_video, "--out", path, "--readout-ms", 18)[0] == 0
        rig = read_rig(path)
        assert rig.camera.width == 640
        assert rig.camera.readout_s == pytest.approx(0.018)
    assert read_rig(kept).tags == read_rig(files.rig).tags
