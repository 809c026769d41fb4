"""``celery -A jobs_app``: plain tasks on one FIFO queue, set up by the transport's settings alone.

JOBS_QUEUE and JOBS_QUEUE_URL name its queue; JOBS_FOLDER is where its tasks leave their marks;
JOBS_SETTINGS is JSON of further settings.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task


def settings() -> dict[str, Any]:
    queue = os.environ["JOBS_QUEUE"]
    further = json.loads(os.environ.get("JOBS_SETTINGS", "{}"))
    options = {
        "predefined_queues": {queue: {"url": os.environ["JOBS_QUEUE_URL"]}},
        "queue_name_prefix": f"{queue.removesuffix('.fifo')}-",
        "wait_time_seconds": 1,
        **further.pop("broker_transport_options", {}),
    }
    return {
        "broker_url": "sqs://",
        "broker_transport": "cis_tasks.broker.transport:Transport",
        "broker_transport_options": options,
        "broker_connection_retry_on_startup": True,
        "worker_consumer": "cis_tasks.broker.consumer:Consumer",
        "worker_enable_remote_control": False,
        "worker_prefetch_multiplier": 1,
        "task_default_queue": queue,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_ignore_result": True,
        **further,
    }


def make_app() -> Celery:
    """The app with its tasks, as the environment says."""
    app = Celery("jobs", set_as_current=False)
    app.conf.update(settings())
    app.task(name="mark")(mark)
    app.task(name="hold")(hold)
    app.task(name="hold_gil")(hold_gil)
    app.task(name="again", bind=True, max_retries=5)(again)
    app.task(name="far", bind=True)(far)
    app.task(name="turn", bind=True)(turn)
    return app


def leave(name: str, what: str) -> None:
    """Add a line to a job's file."""
    with (Path(os.environ["JOBS_FOLDER"]) / name).open("a") as file:
        file.write(f"{what} {os.environ.get('JOBS_WORKER', '?')} {time.time()}\n")


def mark(name: str, seconds: float = 0.0) -> None:
    """Leave a mark at the start and at the end."""
    leave(name, "start")
    time.sleep(seconds)
    leave(name, "end")


def hold(name: str) -> None:
    """Run until the test lets all such jobs go."""
    leave(name, "start")
    while not (Path(os.environ["JOBS_FOLDER"]) / "let-go").exists():
        time.sleep(0.05)
    leave(name, "end")


def hold_gil(name: str, seconds: int) -> None:
    """Keep every other thread of the process from running."""
    leave(name, "start")
    ctypes.PyDLL(None).sleep(seconds)
    leave(name, "end")


def again(self: Task[Any, Any], name: str, times: int, countdown: float = 0.0) -> None:
    """Retry so many times."""
    leave(name, f"start:{self.request.properties['MessageGroupId']}")
    if self.request.retries < times:
        raise self.retry(countdown=countdown)
    leave(name, "end")


def far(self: Task[Any, Any], name: str) -> None:
    """Retry in a day."""
    leave(name, "start")
    raise self.retry(countdown=24 * 3600)


def turn(self: Task[Any, Any], name: str) -> None:
    """Become another task, of the same id."""
    leave(name, "turn")
    raise self.replace(self.app.signature("mark", args=[name]))


app = make_app() if "JOBS_QUEUE" in os.environ else None
