"""Queue, bucket and workers for tests of results, and the fixtures that give them out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import results_app
from celery import Celery

from cis_tasks.broker import replies
from cis_tasks.local.emulator import Emulator
from cis_tasks.local.environment import of_worker
from cis_tasks.local.workers import Worker
from support.cloud import environment

HERE = Path(__file__).parent
WAIT_S = 120.0
VISIBILITY_S = 4

Task = Callable[[str], Any]


@dataclass
class Place:
    """Queue, bucket and workers of one test module."""

    queue: str
    bucket: str
    prefix: str
    variables: dict[str, str]
    folder: Path

    def start_worker(self, *options: str) -> Worker:
        worker = Worker(
            f"w-{uuid.uuid4().hex[:6]}",
            self.queue,
            environment=of_worker(os.environ, self.variables, 1) | self.path,
            folder=self.folder,
            app="results_app",
            options=options or ("-c", "2"),
        )
        worker.await_ready()
        return worker

    def run_client(self, code: str) -> str:
        """Run Python in a process of its own, with ``app`` and ``task(name)``; what it printed."""
        start = "from results_app import app\ntask = lambda n: app.tasks['results_app.' + n]\n"
        env = of_worker(os.environ, self.variables, 1) | self.path
        command = [sys.executable, "-c", start + code]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, timeout=2 * WAIT_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def path(self) -> dict[str, str]:
        root = HERE.parents[1]
        return {"PYTHONPATH": os.pathsep.join(map(str, (root, HERE, HERE.parent)))}

    def reply_queues(self) -> set[str]:
        listed = boto3.client("sqs").list_queues(QueueNamePrefix=f"{self.prefix}reply-")
        return {url.rpartition("/")[2] for url in listed.get("QueueUrls", [])}

    def stored(self, prefix: str = "") -> list[str]:
        listed = boto3.client("s3").list_objects_v2(Bucket=self.bucket, Prefix=f"results/{prefix}")
        return [item["Key"] for item in listed.get("Contents", [])]

    def stored_meta(self, task_id: str) -> dict[str, Any] | None:
        key = f"results/celery-task-meta-{task_id}"
        if key not in self.stored(f"celery-task-meta-{task_id}"):
            return None
        found = boto3.client("s3").get_object(Bucket=self.bucket, Key=key)
        meta: dict[str, Any] = json.loads(found["Body"].read())
        return meta


@contextmanager
def make_place(emulator: Emulator, folder: Path) -> Iterator[Place]:
    """A place with no worker; within the block, this process's environment leads to it."""
    suffix = uuid.uuid4().hex[:8]
    with environment(emulator.environment), pytest.MonkeyPatch.context() as patch:
        queue, bucket, prefix = f"results-{suffix}.fifo", f"results-{suffix}", f"r{suffix}-"
        attributes = {"FifoQueue": "true", "VisibilityTimeout": str(VISIBILITY_S)}
        url = boto3.client("sqs").create_queue(QueueName=queue, Attributes=attributes)["QueueUrl"]
        boto3.client("s3").create_bucket(Bucket=bucket)
        variables = {
            "RESULTS_QUEUE": queue,
            "RESULTS_QUEUE_URL": url,
            "RESULTS_BUCKET": bucket,
            "RESULTS_PREFIX": prefix,
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        yield Place(queue, bucket, prefix, variables | emulator.environment, folder)
        replies.close_all()


@pytest.fixture(scope="module")
def place(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with make_place(emulator, tmp_path_factory.mktemp("results")) as made:
        yield made


@pytest.fixture(scope="module")
def worker(place: Place) -> Iterator[Worker]:
    started = place.start_worker()
    yield started
    started.kill()


@pytest.fixture
def app(place: Place) -> Celery:
    """A client that has asked for nothing yet."""
    return results_app.make_app()


@pytest.fixture
def task(app: Celery, worker: Worker) -> Callable[[str], Any]:
    return lambda name: app.tasks[f"results_app.{name}"]
