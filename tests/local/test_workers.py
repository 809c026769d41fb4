"""Worker processes of the laptop cloud."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis_tasks.local import environment as env
from cis_tasks.local.cloud import Cloud
from cis_tasks.local.errors import CloudError
from cis_tasks.local.workers import State, Worker
from cis_tasks.pipelines import find
from support.cloud import eventually, gone

STARTER = """
import os, sys, time
from pathlib import Path
from cis_tasks.local import environment as env
from cis_tasks.local.workers import Worker
environment = env.of_worker(os.environ, {}, 1)
worker = Worker("w", sys.argv[1], environment=environment, folder=Path(sys.argv[2]))
worker.await_ready()
print(worker.pid, flush=True)
time.sleep(600)
"""
QUEUE = find("spine").queue


def launch(cloud: Cloud, **changes: str) -> Worker:
    environment = env.of_worker(os.environ, cloud.environment, 1)
    given = {"name": "w", "queue": QUEUE, **changes}
    return Worker(**given, environment=environment, folder=cloud.state)


@pytest.fixture
def worker(cloud_of_module: Cloud) -> Iterator[Worker]:
    started = launch(cloud_of_module)
    started.await_ready()
    yield started
    started.kill()


def members(group: int) -> set[int]:
    """The living processes of a process group, without the watcher beside its leader."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] not in "ZX" and int(fields[2]) == group and "tether.py" not in command:
            found.add(int(folder.name))
    return found


def test_worker_starts_its_pool_and_ends_in_good_order(worker: Worker) -> None:
    assert worker.state is State.READY
    assert len(members(worker.pid)) == 2
    worker.terminate()
    assert worker.state is State.STOPPING
    worker.stop(grace_s=60)
    assert worker.state is State.STOPPED
    assert worker.exit_code == 0
    assert not members(worker.pid)


def test_killed_worker_takes_its_pool_with_it(worker: Worker) -> None:
    worker.kill()
    eventually(lambda: not members(worker.pid))
    assert worker.state is State.STOPPED


def test_worker_that_ended_unasked_has_failed(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    eventually(lambda: worker.state is not State.READY)
    assert worker.state is State.FAILED
    assert worker.exit_code == -signal.SIGKILL


def test_worker_that_cannot_start_is_reported_with_its_log(cloud_of_module: Cloud) -> None:
    worker = launch(cloud_of_module, app="no_such_app")
    with pytest.raises(CloudError) as caught:
        worker.await_ready()
    assert worker.state is State.FAILED
    assert "The worker w ended with 2" in str(caught.value)
    assert str(worker.log) in str(caught.value)
    assert "no_such_app" in str(caught.value).splitlines()[-1] + str(caught.value).splitlines()[-2]


def test_queue_that_no_pipeline_has_is_a_failed_start(cloud_of_module: Cloud) -> None:
    worker = launch(cloud_of_module, queue="CIS_misspelt.fifo")
    with pytest.raises(CloudError, match=r"CIS_misspelt\.fifo"):
        worker.await_ready()


def test_worker_that_takes_too_long_is_given_up(cloud_of_module: Cloud) -> None:
    worker = launch(cloud_of_module)
    with pytest.raises(CloudError, match="was not ready after 0 s"):
        worker.await_ready(timeout_s=0)
    worker.kill()


def test_readiness_of_the_run_before_does_not_count(worker: Worker, cloud_of_module: Cloud) -> None:
    worker.kill()
    second = launch(cloud_of_module)
    assert second.state is State.STARTING
    second.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_worker_and_its_pool_die_with_their_starter(
    cloud_of_module: Cloud, tmp_path: Path, number: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, QUEUE, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **cloud_of_module.environment},
    ) as starter:
        assert starter.stdout
        pid = int(starter.stdout.readline())
        pool = members(pid)
        assert len(pool) == 2
        starter.send_signal(number)
    eventually(lambda: all(gone(one) for one in pool))
