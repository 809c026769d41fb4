"""``celery -A results_app``: plain tasks whose results are kept and sent by our backend.

RESULTS_QUEUE, RESULTS_QUEUE_URL and RESULTS_BUCKET name its queue and bucket, RESULTS_PREFIX the
beginning of its reply queues' names; RESULTS_OVERRIDES is JSON of further settings.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task, group
from celery.result import allow_join_result


class PlainError(Exception):
    """What a task raises in tests."""


class TellingError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


def settings() -> dict[str, Any]:
    queue, url = os.environ["RESULTS_QUEUE"], os.environ["RESULTS_QUEUE_URL"]
    return {
        "broker_url": "sqs://",
        "broker_transport": "cis_tasks.broker.transport:Transport",
        "broker_transport_options": {
            "predefined_queues": {queue: {"url": url}},
            "queue_name_prefix": os.environ["RESULTS_PREFIX"],
            "polling_interval": 0.05,
            "wait_time_seconds": 5,
        },
        "task_default_queue": queue,
        "result_backend": "cis_tasks.broker.results:Backend",
        "s3_bucket": os.environ["RESULTS_BUCKET"],
        "s3_base_path": "results/",
        "result_extended": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_enable_remote_control": False,
        "broker_connection_retry_on_startup": True,
        "task_track_started": True,
        **json.loads(os.environ.get("RESULTS_OVERRIDES", "{}")),
    }


def make_app() -> Celery:
    """The app with its tasks, set up from the environment."""
    made = Celery("results_app", set_as_current=False)
    made.conf.update(settings())
    for function, options in TASKS.items():
        made.task(name=f"results_app.{function.__name__}", **options)(function)
    made.finalize()
    return made


def add(x: float, y: float) -> float:
    return x + y


def total(numbers: list[float]) -> float:
    return sum(numbers)


def same(value: Any) -> Any:
    return value


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def wait_for(file: str) -> str:
    """End once there is such a file."""
    while not Path(file).exists():
        time.sleep(0.05)
    return file


def note(file: str, value: Any = None) -> Any:
    """Append a line to a file: how often it runs can be counted."""
    with Path(file).open("a") as out:
        out.write(f"{os.getpid()} {value}\n")
    return value


def fail(kind: str) -> None:
    if kind == "value":
        raise ValueError("not this one")
    if kind == "telling":
        raise TellingError(7, "seven")
    raise PlainError(kind)


def fail_then_add(self: Task, x: float, y: float, times: int) -> float:
    if self.request.retries < times:
        raise self.retry(exc=PlainError("again"), countdown=0.1, max_retries=times)
    return x + y


def progress(self: Task, steps: int, pause_s: float) -> int:
    for step in range(steps):
        self.update_state(state="PROGRESS", meta={"step": step})
        time.sleep(pause_s)
    return steps


def big(size: int) -> str:
    return "x" * size


def publish_children(self: Task, numbers: list[float]) -> int:
    for number in numbers:
        self.app.tasks["results_app.add"].delay(number, 1)
    return len(numbers)


def wait_for_child(self: Task, x: float, y: float) -> float:
    with allow_join_result():
        result: float = self.app.tasks["results_app.add"].delay(x, y).get(timeout=120)
        return result


def enlarge(self: Task, x: float) -> float:
    """Add a member to the chord that it is a member of."""
    self.add_to_chord(self.app.tasks["results_app.add"].s(x, 1))
    return x


def become_group(self: Task, numbers: list[float]) -> None:
    tasks = self.app.tasks
    raise self.replace(group(tasks["results_app.add"].s(n, 1) for n in numbers))


def die_once(file: str, value: Any) -> Any:
    """End the process that it runs in, the first time; the message comes back."""
    first = not Path(file).exists()
    note(file, value)
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


TASKS: dict[Any, dict[str, Any]] = {
    **{function: {} for function in (add, total, same, sleep, wait_for, note, fail, big, die_once)},
    **{
        function: {"bind": True}
        for function in (
            fail_then_add,
            progress,
            publish_children,
            wait_for_child,
            enlarge,
            become_group,
        )
    },
}

if "RESULTS_QUEUE" in os.environ:
    app = make_app()
