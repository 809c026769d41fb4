"""``cis up --max``: the fleet in the foreground, and what other shells see of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from support.cloud import eventually, gone


def up(*options: str, state: Path) -> list[str]:
    return [sys.executable, "-m", "cis_tasks", "up", "--state", str(state), *options]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_ENDPOINT", "CIS_"))}
    return {**kept, "COLUMNS": "200"}


def test_up_with_a_maximum_tells_its_instances_line_by_line_and_takes_them_down(
    tmp_path: Path,
) -> None:
    log, script = tmp_path / "log", tmp_path / "state/environment.sh"
    command = up("--max", "2", "--min", "1", "--boot", "0", state=tmp_path / "state")
    with log.open("w") as out:
        running = subprocess.Popen(command, env=environment(), stdout=out, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: "in service after" in log.read_text() or running.poll() is not None)
        asked = f". {script} && cis scaling explain spine --json"
        shell = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, check=True)
        [told] = json.loads(shell.stdout)
        assert told["reading"]["in_service"] == 1
        assert told["why"].startswith("1 desired, 1 in service")
        [activity] = told["activities"]
        assert activity["status"] == "Successful"
        workers = [int(pid) for pid in pids_of(running.pid)]
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0, log.read_text()
    finally:
        running.kill()
    assert "CIS-spine i-" in log.read_text()
    assert all(gone(pid) for pid in workers)


def test_limits_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for options, told in (
        (("--max", "2", "--min", "3"), "at least 3 and at most 2"),
        (("--max", "2", "--policy", "best"), "no scaling policy 'best'"),
    ):
        command = up(*options, state=tmp_path / "state")
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert told in done.stderr
        assert not (tmp_path / "state").exists()


def pids_of(parent: int) -> list[str]:
    """The processes that another has started: emulator, publisher and workers."""
    children = Path(f"/proc/{parent}/task").glob("*/children")
    return [pid for file in children for pid in file.read_text().split()]
