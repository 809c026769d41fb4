"""Processes that end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis_tasks.local.process import Process, stop_all
from support.cloud import eventually, gone

SLEEPER = "import time; print('started', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('started', flush=True); time.sleep(600)"
)
PARENT = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('child', child.pid, flush=True)\n"
    "time.sleep(600)\n"
)
STARTER = """
import os, sys, time
from pathlib import Path
from cis_tasks.local.process import Process
process = Process([sys.executable, "-c", sys.argv[2]], log=Path(sys.argv[1]), env=os.environ)
print(process.pid, flush=True)
time.sleep(600)
"""


def run(tmp_path: Path, code: str, name: str = "it") -> Process:
    command = [sys.executable, "-c", code]
    return Process(command, log=tmp_path / f"{name}.log", env=os.environ)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    running = run(tmp_path, SLEEPER)
    eventually(lambda: "started" in running.log.read_text())
    yield running
    running.kill()


def test_exit_code_is_the_commands_own(tmp_path: Path) -> None:
    process = run(tmp_path, "raise SystemExit(7)")
    assert process.wait(30)
    assert process.exit_code == 7


def test_log_holds_both_outputs(tmp_path: Path) -> None:
    process = run(tmp_path, "import sys; print('out'); sys.stdout.flush(); sys.exit('err')")
    assert process.wait(30)
    assert process.log_tail() == "out\nerr"


def test_log_of_the_run_before_is_kept_apart(tmp_path: Path) -> None:
    for text in ("first", "second"):
        assert run(tmp_path, f"print('{text}')").wait(30)
    assert (tmp_path / "it.log").read_text() == "second\n"
    assert (tmp_path / "it.log.1").read_text() == "first\n"


def test_command_that_does_not_exist_is_named_in_the_log(tmp_path: Path) -> None:
    process = Process(["/no/such/program"], log=tmp_path / "it.log", env=os.environ)
    assert process.wait(30)
    assert process.exit_code != 0
    assert "cannot run /no/such/program: No such file" in process.log_tail()


def test_terminate_reaches_the_command(process: Process) -> None:
    process.terminate()
    assert process.wait(30)
    assert process.exit_code == -signal.SIGTERM


def test_stop_kills_what_ignores_sigterm(tmp_path: Path) -> None:
    process = run(tmp_path, STUBBORN)
    eventually(lambda: "started" in process.log.read_text())
    process.stop(grace_s=0.2)
    assert process.exit_code == -signal.SIGKILL


def test_kill_ends_the_children_of_the_command_too(tmp_path: Path) -> None:
    process = run(tmp_path, PARENT)
    child = child_of(process)
    process.kill()
    eventually(lambda: gone(child))


def test_children_do_not_outlive_a_command_that_was_killed_alone(tmp_path: Path) -> None:
    process = run(tmp_path, PARENT)
    child = child_of(process)
    os.kill(process.pid, signal.SIGKILL)
    process.stop()
    eventually(lambda: gone(child))


def test_stopping_twice_is_harmless(process: Process) -> None:
    stop_all([process])
    stop_all([process])
    assert not process.running


def test_ctrl_c_of_the_starter_does_not_reach_the_command(process: Process) -> None:
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)


def test_command_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    started: list[Process] = []
    thread = threading.Thread(target=lambda: started.append(run(tmp_path, SLEEPER)))
    thread.start()
    thread.join()
    (process,) = started
    eventually(lambda: "started" in process.log.read_text())
    assert process.running
    process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("code", [SLEEPER, STUBBORN], ids=["obedient", "stubborn"])
def test_command_dies_with_its_starter(tmp_path: Path, number: int, code: str) -> None:
    log = tmp_path / "it.log"
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(log), code], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout
        pid = int(starter.stdout.readline())
        eventually(lambda: log.exists() and "started" in log.read_text())
        assert not gone(pid)
        starter.send_signal(number)
    eventually(lambda: gone(pid))


def child_of(process: Process) -> int:
    eventually(lambda: "child" in process.log.read_text())
    pid = int(process.log.read_text().split()[1])
    assert not gone(pid)
    return pid
