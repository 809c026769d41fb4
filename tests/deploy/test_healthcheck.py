"""The container's health check, run as Docker does, on a stand-in for the container's processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cis_tasks.deployment.bundle import checkout
from cis_tasks.local_port import Server
from cis_tasks.worker import probes
from cis_tasks.worker.health_server import pages
from support.cloud import eventually, gone

SCRIPT = checkout() / "deploy" / "healthcheck.sh"

# As tini: tells its child to end when it is told, and ends with it. The child is deaf to that.
INIT = """
import pathlib, signal, subprocess, sys
def told(*_):
    with open("terminated", "a") as file:
        file.write("TERM\\n")
signal.signal(signal.SIGTERM, told)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
pathlib.Path("pid.new").write_text(str(child.pid))
pathlib.Path("pid.new").rename("pid")
sys.exit(child.wait() != -signal.SIGKILL)
"""


@dataclass
class Container:
    """A first process and its child, and the port that the check asks."""

    folder: Path
    init: subprocess.Popen[bytes]
    child: int
    port: int

    def check(self) -> int:
        """The exit status of one check."""
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(self.folder),
            "CIS_HEALTH_PORT": str(self.port),
            "http_proxy": "http://127.0.0.1:1",  # a worker's proxy is not for its own port
        }
        command = ["bash", str(SCRIPT), str(self.init.pid)]
        return subprocess.run(command, env=environment, check=False, timeout=60).returncode

    @property
    def terminated(self) -> int:
        """How often the first process was told to end."""
        told = self.folder / "terminated"
        return len(told.read_text().splitlines()) if told.exists() else 0

    @property
    def runs(self) -> bool:
        return self.init.poll() is None and not gone(self.child)


class Ear:
    """A probe of the worker that the test makes deaf."""

    hears = True

    def __call__(self) -> probes.Reading:
        return probes.Reading(ok=self.hears, detail="")


@pytest.fixture
def ear() -> Iterator[Ear]:
    ear = Ear()
    probes.register("ear", ear, live=True)
    yield ear
    probes.forget("ear")


def run_container(folder: Path, port: int) -> Container:
    folder.mkdir()
    init = subprocess.Popen([sys.executable, "-c", INIT], cwd=folder)
    child = int(eventually((folder / "pid").exists) and (folder / "pid").read_text())
    return Container(folder, init, child, port)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    """One whose worker's port is served by the worker's own pages."""
    server = Server(pages(), 0)
    container = run_container(tmp_path / "container", server.port)
    yield container
    server.close()
    end(container)


def end(container: Container) -> None:
    for process in (container.child, container.init.pid):
        if not gone(process):
            os.kill(process, signal.SIGKILL)
    container.init.wait()


@pytest.mark.usefixtures("ear")
def test_live_worker_is_healthy(container: Container) -> None:
    assert container.check() == 0
    assert container.runs


def test_starting_worker_is_unhealthy_and_lives_however_long_it_takes(
    container: Container, ear: Ear
) -> None:
    ear.hears = False
    port, container.port = container.port, 1  # nobody listens yet
    assert [container.check() for _ in range(4)] == [1] * 4
    container.port = port  # the port is there, the queue is not
    assert [container.check() for _ in range(4)] == [1] * 4
    assert container.runs
    assert container.terminated == 0
    ear.hears = True
    assert container.check() == 0


def test_deaf_worker_is_asked_to_end_at_the_third_failure_and_ended_at_the_sixth(
    container: Container, ear: Ear
) -> None:
    assert container.check() == 0
    ear.hears = False
    assert [container.check() for _ in range(2)] == [1, 1]
    assert container.terminated == 0
    for failure in (1, 2, 3):
        assert container.check() == 1
        eventually(lambda told=failure: container.terminated == told, timeout_s=30)
    assert container.runs
    assert container.check() == 1
    assert container.init.wait(30) == 0  # its child was killed


def test_failures_count_only_in_a_row(container: Container, ear: Ear) -> None:
    for _ in range(3):
        ear.hears = True
        assert container.check() == 0
        ear.hears = False
        assert [container.check() for _ in range(2)] == [1, 1]
    assert container.runs
    assert container.terminated == 0


def test_next_start_in_the_same_tmp_may_take_its_time_again(
    container: Container, ear: Ear, tmp_path: Path
) -> None:
    assert container.check() == 0
    ear.hears = False
    end(container)
    restarted = run_container(tmp_path / "restarted", container.port)
    try:
        for stale in container.folder.glob("health-failures-*"):
            # Process ids are given again in a new container: only the time of the start differs.
            started = stale.name.rpartition("-")[2]
            stale.rename(restarted.folder / f"health-failures-{restarted.init.pid}-{started}")
        assert [restarted.check() for _ in range(4)] == [1] * 4
        assert restarted.runs
        assert restarted.terminated == 0
    finally:
        end(restarted)
