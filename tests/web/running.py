"""The web tier as a process of its own, in front of the model that tells images apart."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from cis_tasks.local.cloud import Cloud
from cis_tasks.local.emulator import free_port
from cis_tasks.local.environment import of_worker
from cis_tasks.local.process import Process
from cis_tasks.local.workers import Worker
from support.cloud import eventually

TESTS = Path(__file__).parents[1]
MODEL = "telling_app"
SECRET = "a secret of more than 24 characters"


@dataclass(frozen=True)
class Running:
    """A tier that serves."""

    url: str
    cloud: Cloud
    process: Process

    @property
    def log(self) -> str:
        return self.process.log.read_text()

    def client(self, **options: object) -> httpx.Client:
        given = {"base_url": self.url, "timeout": 120, "trust_env": False, **options}
        return httpx.Client(**given)

    def keys(self, prefix: str = "", bucket: str | None = None) -> list[str]:
        """What is in the input bucket, or in another one."""
        s3 = self.cloud.client("s3")
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket or self.cloud.stack.input_bucket, Prefix=prefix
        )
        return [item["Key"] for page in pages for item in page.get("Contents", [])]


def environment_of(cloud: Cloud, **settings: object) -> dict[str, str]:
    found = of_worker(os.environ, cloud.environment, 1)
    path = [found["PYTHONPATH"], str(TESTS), str(Path(__file__).parent)]
    given = {f"CIS_WEB_{name.upper()}": str(value) for name, value in settings.items()}
    return {**found, "PYTHONPATH": os.pathsep.join(path), **given}


@contextmanager
def image_worker(cloud: Cloud, folder: Path) -> Iterator[Worker]:
    worker = Worker(
        "image",
        "CIS_Image_requests.fifo",
        environment=environment_of(cloud),
        folder=folder,
        app=MODEL,
        options=["-P", "threads", "-c", "8"],
    )
    try:
        worker.await_ready(180)
        yield worker
    finally:
        worker.kill()


@contextmanager
def web_tier(
    cloud: Cloud, folder: Path, *, endpoint: str | None = None, **settings: object
) -> Iterator[Running]:
    """A tier with these settings, ready; ``endpoint`` leads it past the cloud's own."""
    port = free_port()
    environment = environment_of(cloud, port=port, **settings)
    if endpoint:
        environment["AWS_ENDPOINT_URL"] = endpoint
    command = [sys.executable, "-m", "cis_tasks", "web"]
    process = Process(command, log=folder / f"web-{port}.log", env=environment)
    running = Running(f"http://127.0.0.1:{port}", cloud, process)
    try:
        eventually(lambda: _ready(running), 120)
        yield running
    finally:
        process.stop(5)


def _ready(running: Running) -> bool:
    assert running.process.running, running.process.log_tail()
    try:
        return running.client().get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
