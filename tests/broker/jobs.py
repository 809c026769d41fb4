"""A FIFO queue with its dead letters, and workers of `jobs_app` on it."""

from __future__ import annotations

import base64
import importlib
import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import kombu.pools
import pytest
from celery import Celery

from cis_tasks.local.emulator import Emulator
from cis_tasks.local.workers import Worker
from support.cloud import environment

HERE = Path(__file__).parent
VISIBILITY_S = 4


@dataclass
class Jobs:
    """One queue and what happens on it.

    Attributes:
        app: Celery on it, in this process.
        folder: where its tasks leave their marks.
    """

    name: str
    url: str
    dead_url: str
    folder: Path
    app: Celery
    workers: list[Worker] = field(default_factory=list)

    @property
    def sqs(self) -> Any:
        return boto3.client("sqs")

    def start(
        self, *options: str, environ: Mapping[str, str] | None = None, **settings: Any
    ) -> Worker:
        """Start a worker and wait until it takes jobs; ``settings`` are Celery's."""
        name = f"w{len(self.workers) + 1}"
        worker = Worker(
            name,
            self.name,
            environment={
                **os.environ,
                "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parents[1]))),
                "JOBS_WORKER": name,
                "JOBS_SETTINGS": json.dumps(settings),
                **(environ or {}),
            },
            folder=self.folder.parent / "workers",
            app="jobs_app",
            options=("--concurrency", "1", *options),
        )
        self.workers.append(worker)
        worker.await_ready()
        return worker

    def send(self, task: str, *args: Any, **options: Any) -> str:
        return str(self.app.send_task(task, args=args, **options).id)

    def let_go(self) -> None:
        """End the jobs ``hold``, those that are yet to start too."""
        (self.folder / "let-go").touch()

    def put(self, body: str, **attributes: Any) -> None:
        """Put any bytes into the queue."""
        self.sqs.send_message(
            QueueUrl=self.url,
            MessageBody=body,
            MessageGroupId=uuid.uuid4().hex,
            MessageDeduplicationId=uuid.uuid4().hex,
            **attributes,
        )

    def marks(self, name: str) -> list[list[str]]:
        """What a job left: [what, worker, time] of each mark."""
        path = self.folder / name
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def started(self, name: str) -> int:
        return sum(mark[0].startswith("start") for mark in self.marks(name))

    def ended(self, name: str) -> bool:
        return any(mark[0] == "end" for mark in self.marks(name))

    def counts(self) -> tuple[int, int]:
        """(waiting, in flight)."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return int(answer["Attributes"][names[0]]), int(answer["Attributes"][names[1]])

    def drained(self) -> bool:
        return self.counts() == (0, 0)

    def dead(self) -> int:
        names = ["ApproximateNumberOfMessages"]
        answer = self.sqs.get_queue_attributes(QueueUrl=self.dead_url, AttributeNames=names)
        return int(answer["Attributes"][names[0]])

    def received(self) -> list[dict[str, Any]]:
        """Messages that wait, with their attributes; they stay hidden afterwards."""
        answer = self.sqs.receive_message(
            QueueUrl=self.url, AttributeNames=["All"], MaxNumberOfMessages=10
        )
        return list(answer.get("Messages", []))


def envelope(message: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(message["Body"])))


def log_of(worker: Worker) -> str:
    return worker.log.read_text(errors="replace")


MakeJobs = Callable[..., Jobs]


@contextmanager
def making_jobs(emulator: Emulator, folder: Path) -> Iterator[MakeJobs]:
    """Within the block, the function given makes queues; all ends with it, workers too."""
    made: list[Jobs] = []

    def make(visibility_s: int = VISIBILITY_S, *, dead_letters: bool = True) -> Jobs:
        name, sqs = f"jobs-{uuid.uuid4().hex[:8]}", boto3.client("sqs")
        dead = sqs.create_queue(QueueName=f"{name}_dlq.fifo", Attributes={"FifoQueue": "true"})
        answer = sqs.get_queue_attributes(QueueUrl=dead["QueueUrl"], AttributeNames=["QueueArn"])
        redrive = {
            "deadLetterTargetArn": answer["Attributes"]["QueueArn"],
            "maxReceiveCount": 3,
        }
        attributes = {"FifoQueue": "true", "VisibilityTimeout": str(visibility_s)}
        if dead_letters:
            attributes["RedrivePolicy"] = json.dumps(redrive)
        url = sqs.create_queue(QueueName=f"{name}.fifo", Attributes=attributes)["QueueUrl"]
        marks = folder / name
        marks.mkdir()
        os.environ.update(JOBS_QUEUE=f"{name}.fifo", JOBS_QUEUE_URL=url, JOBS_FOLDER=str(marks))
        kombu.pools.reset()
        app = importlib.import_module("jobs_app").make_app()
        jobs = Jobs(f"{name}.fifo", url, dead["QueueUrl"], marks, app)
        made.append(jobs)
        return jobs

    with environment(emulator.environment):
        yield make
        for jobs in made:
            for worker in jobs.workers:
                worker.kill()
            jobs.app.close()
            for url in (jobs.url, jobs.dead_url):
                jobs.sqs.delete_queue(QueueUrl=url)
        for name in ("JOBS_QUEUE", "JOBS_QUEUE_URL", "JOBS_FOLDER"):
            os.environ.pop(name, None)


@pytest.fixture
def make_jobs(emulator: Emulator, tmp_path: Path) -> Iterator[MakeJobs]:
    with making_jobs(emulator, tmp_path) as make:
        yield make


@pytest.fixture
def jobs(make_jobs: MakeJobs) -> Jobs:
    return make_jobs()


def quit_(worker: Worker) -> None:
    """SIGQUIT: cold, or soft where that is set."""
    os.kill(worker.pid, signal.SIGQUIT)
