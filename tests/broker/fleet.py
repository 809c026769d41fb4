"""Workers that can be watched and commanded, and an app of this process to do it with."""

from __future__ import annotations

import http.client
import importlib
import json
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
from celery import Celery
from jobs import HERE, Jobs

from cis_tasks.broker.owned import belongings
from cis_tasks.local.emulator import Emulator
from support.cloud import environment

SETTINGS: dict[str, Any] = {
    "worker_enable_remote_control": True,
    "worker_send_task_events": True,
}


@contextmanager
def fleet(emulator: Emulator, folder: Path) -> Iterator[Jobs]:
    """A FIFO queue and its app; ``start(**SETTINGS)`` adds workers that listen to commands."""
    name = f"fleet-{uuid.uuid4().hex[:8]}"
    with environment(emulator.environment):
        made = boto3.client("sqs").create_queue(
            QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true", "VisibilityTimeout": "30"}
        )
        marks = folder / name
        marks.mkdir()
        jobs = Jobs(f"{name}.fifo", made["QueueUrl"], "", marks, Celery(set_as_current=False))
        before = {key: os.environ.get(key) for key in variables(jobs)}
        os.environ.update(variables(jobs))
        try:
            jobs.app = importlib.import_module("jobs_app").make_app()
            yield jobs
        finally:
            for worker in jobs.workers:
                worker.kill()
            jobs.app.close()
            belongings().drop_all()
            jobs.sqs.delete_queue(QueueUrl=jobs.url)
            for key, value in before.items():
                os.environ.pop(key)
                os.environ.update({key: value} if value else {})


def variables(jobs: Jobs) -> dict[str, str]:
    """What `jobs_app` reads from the environment."""
    return {
        "JOBS_QUEUE": jobs.name,
        "JOBS_QUEUE_URL": jobs.url,
        "JOBS_FOLDER": str(jobs.folder),
        "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parents[1]))),
    }


def prefix(jobs: Jobs) -> str:
    """What the names of the fleet's own queues begin with."""
    return f"{jobs.name.removesuffix('.fifo')}-"


def queues(jobs: Jobs, what: str = "") -> list[str]:
    """URLs of the queues that processes of the fleet have made."""
    found = jobs.sqs.list_queues(QueueNamePrefix=prefix(jobs) + what)
    return list(found.get("QueueUrls", []))


def subscriptions(jobs: Jobs) -> list[str]:
    """Names of the fleet's queues that are subscribed to something."""
    listed = boto3.client("sns").list_subscriptions()["Subscriptions"]
    names = [each["Endpoint"].rpartition(":")[2] for each in listed]
    return [name for name in names if name.startswith(prefix(jobs))]


class Counting:
    """An endpoint that counts the calls to AWS that come through it.

    Attributes:
        endpoint: its URL.
        calls: how many there were of each kind.
    """

    def __init__(self, upstream: str) -> None:
        self.calls: Counter[str] = Counter()
        self._upstream = urlsplit(upstream).netloc
        counting = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                counting.pass_on(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A killed worker leaves its calls behind."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Counting:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.calls[operation(handler.headers.get("X-Amz-Target"), body)] += 1
        headers = {k: v for k, v in handler.headers.items() if k.lower() != "connection"}
        connection = http.client.HTTPConnection(self._upstream, timeout=90)
        try:
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        handler.send_response(answer.status)
        handler.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


def operation(target: str | None, body: bytes) -> str:
    """``ReceiveMessage fleet-1.fifo``, ``Publish``."""
    if target is None:
        return parse_qs(body.decode()).get("Action", ["?"])[0]
    name = target.rpartition(".")[2]
    queue = json.loads(body).get("QueueUrl", "").rpartition("/")[2]
    return f"{name} {queue}".strip()


def names(replies: Sequence[dict[str, Any]] | None) -> list[str]:
    """Which workers have answered."""
    return sorted(name.partition("@")[0] for reply in replies or () for name in reply)
