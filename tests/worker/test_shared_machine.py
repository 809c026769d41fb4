"""Several workers on one machine, one per GPU, tell its group with one voice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl

import boto3
import pytest

from cis_tasks.local.cloud import Cloud
from cis_tasks.local.environment import of_worker
from cis_tasks.local.workers import Worker
from cis_tasks.pipelines import find
from cis_tasks.worker.host import GOING, Shared
from support.cloud import eventually
from support.sessions import Scripted, without_lambda

NAMES = ("spine-0", "spine-1")
ROOT = Path(__file__).parents[2]


class Machine:
    """A machine's metadata service and its group's API; `told` is what the group was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.metadata = {
            "instance-id": "i-1",
            "placement/region": "us-east-1",
            "autoscaling/target-lifecycle-state": "InService",
        }
        machine = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self.answer(200, "token")

            def do_GET(self) -> None:
                found = machine.metadata.get(self.path.removeprefix("/latest/meta-data/"))
                self.answer(404 if found is None else 200, found or "")

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                asked = dict(parse_qsl(self.rfile.read(size).decode()))
                about = asked.get("LifecycleHookName") or asked.get("ProtectedFromScaleIn", "")
                machine.told.append((asked["Action"], about))
                self.answer(200, f"<{asked['Action']}Response/>")

            def answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def completed(self, hook: str) -> int:
        return self.told.count(("CompleteLifecycleAction", hook))

    @property
    def protected(self) -> list[str]:
        """The values that protection was set to, in order."""
        return [value for action, value in self.told if action == "SetInstanceProtection"]


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.server.shutdown()
    made.server.server_close()


@contextmanager
def worker(cloud: Cloud, machine: Machine, folder: Path, name: str) -> Iterator[Worker]:
    environment = {
        **of_worker(os.environ, cloud.environment, 2),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": machine.url,
        "AWS_ENDPOINT_URL_AUTO_SCALING": machine.url,
        "CIS_DRAIN": "ec2",
        "CIS_DRAIN_GROUP": "CIS-spine",
        "CIS_DRAIN_POLL_S": "0.3",
        "CIS_DRAIN_HOLD_S": "0",
        "CIS_HOST_FOLDER": str(folder / "run"),
        "CIS_HOST_WORKER": name,
        "CIS_HOST_WORKERS": ",".join(NAMES),
    }
    made = Worker(
        name, find("spine").queue, environment=environment, folder=folder, app="support.scripted"
    )
    try:
        made.await_ready()
        yield made
    finally:
        made.kill()


def test_a_machine_is_ready_with_its_last_worker_and_goes_after_its_last_job(
    cloud: Cloud, machine: Machine, tmp_path: Path
) -> None:
    without_lambda(cloud)
    with worker(cloud, machine, tmp_path, NAMES[0]) as first:
        eventually(lambda: machine.protected)  # it has told what it has to tell
        assert machine.completed("ready") == 0
        with worker(cloud, machine, tmp_path, NAMES[1]) as second:
            eventually(lambda: machine.completed("ready"))
            session = Scripted(cloud, tmp_path, "s", sleep_s=6).upload()
            publish(cloud, session)
            eventually(lambda: session.runs == 1 and machine.protected[-1] == "true")

            machine.metadata["autoscaling/target-lifecycle-state"] = "Terminated"
            [idle] = eventually(
                lambda: [one for one in (first, second) if one.exit_code is not None]
            )
            assert machine.completed("drain") == 0  # the other one has a job
            assert not session.manifests()
            busy = second if idle is first else first
            eventually(lambda: busy.exit_code is not None)
    assert [one["status"] for one in session.manifests()] == ["succeeded"]
    assert (idle.exit_code, busy.exit_code) == (0, 0)
    assert (machine.completed("ready"), machine.completed("drain")) == (1, 1)
    assert machine.told[-1] == ("CompleteLifecycleAction", "drain")
    assert machine.protected.count("true") == 1  # by one of them
    assert (tmp_path / "run" / GOING).exists()  # systemd starts neither again


def publish(cloud: Cloud, session: Scripted) -> None:
    from cis_tasks.publish import publish_many

    publish_many(boto3.client("sqs"), {"spine": cloud.stack.queue_urls["spine"]}, [session.job])


OTHER = """
import sys, time
from pathlib import Path
from cis_tasks.worker.host import Shared
other = Shared(Path(sys.argv[1]), "spine-1", ["spine-0", "spine-1"])
other.ready()
other.busy(mine=True)
print("there", flush=True)
time.sleep(600)
"""


@contextmanager
def other_worker(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that says it is busy."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_worker_is_neither_busy_nor_waited_for(tmp_path: Path) -> None:
    mine = Shared(tmp_path, NAMES[0], NAMES)
    with other_worker(tmp_path) as other:
        assert mine.busy(mine=False)
        assert mine.speaks()
        other.kill()
        other.wait()
        assert not mine.busy(mine=False)
        assert not mine.ready()  # half of the machine is not a machine
        assert mine.leave()


def test_the_last_to_be_ready_says_so_once_and_a_new_start_does_not(tmp_path: Path) -> None:
    with other_worker(tmp_path):
        mine = Shared(tmp_path, NAMES[0], NAMES)
        assert mine.ready()
        assert not mine.ready()
        assert not mine.leave()
        again = Shared(tmp_path, NAMES[0], NAMES)
        assert not again.ready()
        assert not again.leave()


def test_a_worker_that_leaves_lets_another_speak(tmp_path: Path) -> None:
    first, second = (Shared(tmp_path, name, NAMES) for name in NAMES)
    for each in (first, second):
        each.ready()
    assert (first.speaks(), second.speaks()) == (True, False)
    first.busy(mine=True)
    first.retire()  # its job may take long
    assert second.speaks()
    assert second.busy(mine=False)  # which still holds the machine
    assert not first.leave()
    assert not second.busy(mine=False)
    assert second.leave()


def test_another_worker_of_the_same_name_is_refused(tmp_path: Path) -> None:
    mine = Shared(tmp_path, NAMES[0], NAMES)
    with pytest.raises(OSError, match="unavailable"):
        Shared(tmp_path, NAMES[0], NAMES)
    assert mine.leave()
