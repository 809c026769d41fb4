"""Workers, remote control and Flower started by the very lines of the README."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cis_tasks.local.cloud import Cloud
from cis_tasks.local.environment import of_worker
from cis_tasks.local.process import Process
from cis_tasks.pipelines import PIPELINES
from support.cloud import eventually

README = (Path(__file__).parents[2] / "README.md").read_text()
QUEUE = "CIS_Data_load_in_fifo.fifo"
FLOWER = ("127.0.0.1", 5555)

Start = Callable[[str], Process]


def typed(pattern: str) -> str:
    """The one command of the README, in a block or between backticks, that matches."""
    blocks = re.findall(r"^ {4}(.*?)(?: {2,}#.*)?$", README, re.MULTILINE)
    found = [text for text in (*blocks, *re.findall(r"`(.+?)`", README)) if re.match(pattern, text)]
    [command] = sorted(set(found))
    return command


WORKERS = [typed("celery -A cis_tasks worker"), typed("cis worker spine")]
DASHBOARD = typed("cis flower")
INSPECT = typed("celery -A cis_tasks inspect")


@pytest.fixture
def variables(cloud: Cloud) -> dict[str, str]:
    """What ``. .cis/up/environment.sh`` gives a shell."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**of_worker(os.environ, cloud.environment, 1), "PATH": path}


@pytest.fixture
def start(variables: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def start_one(command: str) -> Process:
        log = tmp_path / f"{len(started)}.log"
        started.append(Process(["sh", "-c", command], log=log, env=variables, cwd=tmp_path))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()


@pytest.fixture
def inspect(variables: dict[str, str]) -> Callable[[str], dict[str, Any]]:
    """What the one worker answers to ``celery -A cis_tasks inspect …``; empty without answer."""

    def ask(question: str) -> dict[str, Any]:
        done = subprocess.run(
            ["sh", "-c", f"{INSPECT} --json {question}"],
            env=variables,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        answers = json.loads(done.stdout) if done.returncode == 0 else {}
        return dict(answers)

    return ask


def test_a_worker_answers_a_ping(start: Start, inspect: Callable[[str], dict[str, Any]]) -> None:
    start(WORKERS[0])
    [pong] = eventually(lambda: inspect("ping")).values()
    assert pong == {"ok": "pong"}


def test_the_other_way_to_start_one_is_the_same(
    start: Start, inspect: Callable[[str], dict[str, Any]]
) -> None:
    start(WORKERS[1])
    [queues] = eventually(lambda: inspect("active_queues")).values()
    [stats] = eventually(lambda: inspect("stats")).values()

    assert [queue["name"] for queue in queues] == [QUEUE]
    assert stats["pool"]["max-concurrency"] == 1
    assert stats["aws_calls"]["sqs.GetQueueAttributes"] >= 1
    assert stats["broker"]["transport_options"]["predefined_queues"] == sorted(
        pipeline.queue for pipeline in PIPELINES.values()
    )


def test_flower_shows_the_worker_to_whoever_has_the_password(start: Start) -> None:
    if not is_free(FLOWER):
        pytest.skip("somebody on this machine uses Flower's port already")
    dashboard = start(DASHBOARD)
    start(WORKERS[0])
    told = eventually(lambda: re.search(r"password (\S+) \(kept", dashboard.log_tail()))
    login = f"cis:{told[1]}"

    workers = eventually(lambda: online(login))

    assert [name.partition("@")[0] for name in workers] == ["celery"]
    eventually(lambda: json.loads(get("/api/workers", login)[1]).get(workers[0], {}).get("stats"))
    status, page = get("/workers", login)
    assert status == 200
    assert workers[0] in page
    assert {get(path, "")[0] for path in ("/", "/workers", "/api/workers")} == {401}
    assert {address for address, port in listening() if port == FLOWER[1]} == {FLOWER[0]}


def is_free(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) != 0


def get(path: str, login: str) -> tuple[int, str]:
    """The status and text of a page of Flower's."""
    connection = http.client.HTTPConnection(*FLOWER, timeout=120)
    credentials = base64.b64encode(login.encode()).decode()
    try:
        connection.request(
            "GET", path, headers={"Authorization": f"Basic {credentials}"} if login else {}
        )
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def online(login: str) -> list[str]:
    status, text = get("/api/workers?status=1", login)
    assert status == 200, text
    return [name for name, is_online in json.loads(text).items() if is_online]


def listening() -> Iterator[tuple[str, int]]:
    """(address, port) of everything on this machine that takes connections."""
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            if state == "0A":  # LISTEN, see proc_net_tcp(5)
                address, _, port = local.partition(":")
                words = bytes.fromhex(address)
                packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                yield socket.inet_ntop(family, packed), int(port, 16)
