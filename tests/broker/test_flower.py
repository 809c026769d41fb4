"""`cis flower` over a real worker: its REST API, its pages, and who may see them."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fleet import SETTINGS, fleet, queues, variables
from jobs import Jobs

from cis_tasks.local.emulator import Emulator, free_port
from cis_tasks.local.process import Process
from support.cloud import eventually, gone

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RUN = "import sys; from cis_tasks.broker.flower import run; run(sys.argv[1:])"
PASSWORD = "correct-horse"


@dataclass
class Dashboard:
    """A running one."""

    process: Process
    port: int
    login: str = f"cis:{PASSWORD}"

    def call(self, method: str, path: str, body: object = None, login: str | None = None) -> Any:
        """The status and the text of an answer."""
        given = (self.login if login is None else login).encode()
        headers = {"Authorization": f"Basic {base64.b64encode(given).decode()}"} if given else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionRefusedError:
            return 0, ""
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, text = self.call("GET", path)
        return json.loads(text) if status == 200 else {}

    def post(self, path: str) -> str:
        status, text = self.call("POST", path)
        assert status == 200, text
        return str(text)

    def task(self, task_id: str) -> dict[str, Any]:
        return dict(self.get(f"/api/task/info/{task_id}"))

    def node(self, name: str = "w1") -> str:
        def online() -> str:
            workers = self.get("/api/workers?status=1").items()
            return next((node for node, on in workers if on and node.startswith(f"{name}@")), "")

        return eventually(online)


StartFlower = Callable[..., Dashboard]


@pytest.fixture(scope="module")
def jobs(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with fleet(emulator, tmp_path_factory.mktemp("flower")) as made:
        made.start(**SETTINGS)
        yield made


@pytest.fixture(scope="module")
def start_flower(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFlower]:
    started: list[Process] = []

    def start(*options: str, **environ: str) -> Dashboard:
        port = free_port()
        folder = tmp_path_factory.mktemp("dashboard")
        command = [sys.executable, "-c", RUN, "-A", "jobs_app", f"--port={port}", *options]
        if "--state" not in options:
            command += ["--state", str(folder / "state")]
        env = {**os.environ, **variables(jobs), **environ}
        process = Process(command, log=folder / "flower.log", env=env)
        started.append(process)
        dashboard = Dashboard(process, port)
        eventually(lambda: dashboard.call("GET", "/healthcheck")[0] or not process.running)
        return dashboard

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def flower(start_flower: StartFlower) -> Dashboard:
    dashboard = start_flower(CIS_FLOWER_PASSWORD=PASSWORD)
    dashboard.node()
    return dashboard


def test_a_task_is_seen_live_with_its_runtime(jobs: Jobs, flower: Dashboard) -> None:
    task_id = jobs.send("mark", "live", 2)

    eventually(lambda: flower.task(task_id).get("state") == "STARTED")
    eventually(lambda: flower.task(task_id).get("state") == "SUCCESS")
    assert flower.task(task_id)["runtime"] >= 2


def test_queue_lengths_come_from_sqs(jobs: Jobs, flower: Dashboard) -> None:
    [queue] = flower.get("/api/queues/length")["active_queues"]
    status, page = flower.call("GET", "/broker")

    assert queue == {
        "name": jobs.name,
        "messages": 0,
        "messages_ready": 0,
        "messages_unacknowledged": 0,
    }
    assert status == 200
    assert jobs.name in page


def test_actions_work_on_workers(jobs: Jobs, flower: Dashboard) -> None:
    node, queue = flower.node(), quote(jobs.name)

    assert "Growing" in flower.post(f"/api/worker/pool/grow/{node}?n=1")
    assert "Shrinking" in flower.post(f"/api/worker/pool/shrink/{node}?n=1")
    assert "rate limit" in flower.post(
        f"/api/task/rate-limit/mark?workername={node}&ratelimit=1000/m"
    )
    assert "time limits" in flower.post(f"/api/task/timeout/mark?workername={node}&hard=60")
    assert "no longer" in flower.post(f"/api/worker/queue/cancel-consumer/{node}?queue={queue}")
    assert "add consumer" in flower.post(f"/api/worker/queue/add-consumer/{node}?queue={queue}")


def test_a_task_is_sent(jobs: Jobs, flower: Dashboard) -> None:
    status, text = flower.call("POST", "/api/task/async-apply/mark", {"args": ["sent-by-flower"]})

    assert status == 200, text
    eventually(lambda: flower.task(json.loads(text)["task-id"]).get("state") == "SUCCESS")
    assert jobs.ended("sent-by-flower")


def test_a_running_task_is_terminated(jobs: Jobs, flower: Dashboard) -> None:
    task_id = jobs.send("mark", "revoked", 60)
    eventually(lambda: flower.task(task_id).get("state") == "STARTED")

    flower.post(f"/api/task/revoke/{task_id}?terminate=true")

    eventually(lambda: flower.task(task_id).get("state") == "REVOKED")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_sees_a_task_go_to_success(jobs: Jobs, flower: Dashboard, tmp_path: Path) -> None:
    task_id = jobs.send("mark", "shown", 8)

    eventually(lambda: "STARTED" in row(flower, task_id, tmp_path))
    eventually(lambda: "SUCCESS" in row(flower, task_id, tmp_path))


def row(flower: Dashboard, task_id: str, folder: Path) -> str:
    """What the page of tasks shows of one, after its scripts have run."""
    done = subprocess.run(
        [
            *(CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server"),
            *("--disable-quic", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000"),
            *("--dump-dom", f"http://{flower.login}@127.0.0.1:{flower.port}/tasks"),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    rows = re.findall(r"<tr.*?</tr>", done.stdout, re.DOTALL)
    return next((text for text in rows if task_id in text), "")


@pytest.mark.parametrize("login", ["", "cis:wrong", f"other:{PASSWORD}"])
@pytest.mark.parametrize("path", ["/", "/tasks", "/broker", "/api/workers", "/api/queues/length"])
def test_nobody_gets_in_without_the_password(flower: Dashboard, path: str, login: str) -> None:
    assert flower.call("GET", path, login=login)[0] == 401


def test_it_is_reached_from_this_machine_alone(flower: Dashboard) -> None:
    listening = [
        line.split()[1].partition(":")[0]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{flower.port:04X}") and line.split()[3] == "0A"
    ]

    assert listening == ["0100007F"]


def test_a_password_is_made_shown_once_and_kept(start_flower: StartFlower, tmp_path: Path) -> None:
    first = start_flower("--state", str(tmp_path))
    kept = tmp_path / "password"
    password = kept.read_text().strip()
    shown = first.process.log.read_text()
    first.process.stop()
    second = start_flower("--state", str(tmp_path))

    assert password in shown
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert password not in second.process.log.read_text()
    assert second.call("GET", "/api/workers", login=f"cis:{password}")[0] == 200


def test_tasks_outlive_it_and_its_queues_do_not(
    jobs: Jobs, start_flower: StartFlower, tmp_path: Path
) -> None:
    state = ("--state", str(tmp_path))
    first = start_flower(*state, CIS_FLOWER_PASSWORD=PASSWORD)
    first.node()
    task_id = jobs.send("mark", "remembered")
    eventually(lambda: first.task(task_id).get("state") == "SUCCESS")
    before = set(queues(jobs))

    first.process.terminate()
    eventually(lambda: gone(first.process.pid))

    left = set(queues(jobs))
    assert len(before - left) == 2  # its events and its replies
    second = start_flower(*state, CIS_FLOWER_PASSWORD=PASSWORD)
    assert second.task(task_id)["state"] == "SUCCESS"


def test_a_password_file_that_cannot_be_read_is_named(
    start_flower: StartFlower, tmp_path: Path
) -> None:
    dashboard = start_flower("--password-file", str(tmp_path / "none"))

    eventually(lambda: not dashboard.process.running)
    assert str(tmp_path / "none") in dashboard.process.log.read_text()


def test_a_worker_that_came_later_is_shut_down(jobs: Jobs, flower: Dashboard) -> None:
    worker = jobs.start(**SETTINGS)
    node = flower.node(f"w{len(jobs.workers)}")
    eventually(lambda: node in flower.get("/api/workers"))

    flower.post(f"/api/worker/shutdown/{node}")

    eventually(lambda: gone(worker.pid))
    eventually(lambda: flower.get("/api/workers?status=1")[node] is False)
