"""Events of real workers, as a monitor receives them, and what they cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet import SETTINGS, Counting, fleet, queues, subscriptions
from jobs import Jobs

from cis_tasks.broker.events import HEARTBEAT_S
from cis_tasks.local.emulator import Emulator
from support.cloud import eventually

FASTER = 20  # the idle worker's hour passes that much faster
MAX_CALLS_AN_HOUR = 250
RESTING = {"control_pause_seconds": 3600, "control_after_job_seconds": 0}


@pytest.fixture
def jobs(emulator: Emulator, tmp_path: Path) -> Iterator[Jobs]:
    with fleet(emulator, tmp_path) as made:
        yield made


@contextmanager
def listening(jobs: Jobs) -> Iterator[list[dict[str, Any]]]:
    """Within the block, the events that arrive."""
    events: list[dict[str, Any]] = []
    with jobs.app.connection() as connection:
        receiver = jobs.app.events.Receiver(connection, handlers={"*": events.append})
        listener = threading.Thread(target=receiver.capture, kwargs={"wakeup": False})
        listener.start()
        eventually(lambda: subscriptions(jobs))
        try:
            yield events
        finally:
            receiver.should_stop = True
            listener.join()


def kinds(events: list[dict[str, Any]], task_id: str) -> list[str]:
    return [event["type"] for event in events if event.get("uuid") == task_id]


def test_a_monitor_sees_workers_and_tasks_and_leaves_nothing(jobs: Jobs) -> None:
    with listening(jobs) as events:
        worker = jobs.start(**SETTINGS)
        task_id = jobs.send("mark", "seen", 0.3)
        eventually(lambda: "task-succeeded" in kinds(events, task_id))
        worker.terminate()
        eventually(lambda: "worker-offline" in {event["type"] for event in events})

    assert kinds(events, task_id) == ["task-received", "task-started", "task-succeeded"]
    [online] = [event for event in events if event["type"] == "worker-online"]
    assert online["freq"] == HEARTBEAT_S
    assert not queues(jobs, "celeryev")


def test_no_event_is_lost_when_a_worker_ends(jobs: Jobs) -> None:
    with listening(jobs) as events:
        worker = jobs.start(**SETTINGS, broker_transport_options={"event_window_seconds": 600})
        task_id = jobs.send("mark", "last", 2)
        eventually(lambda: jobs.started("last"))
        assert not kinds(events, task_id)

        worker.terminate()

        eventually(lambda: "task-succeeded" in kinds(events, task_id))


def test_events_of_many_tasks_share_a_message(jobs: Jobs, emulator: Emulator) -> None:
    with Counting(emulator.endpoint) as proxy, listening(jobs) as events:
        jobs.start(**SETTINGS, environ={"AWS_ENDPOINT_URL": proxy.endpoint})
        task_ids = [jobs.send("mark", f"m{number}") for number in range(20)]
        eventually(lambda: all("task-succeeded" in kinds(events, each) for each in task_ids))

    assert proxy.calls["Publish"] <= 12  # of 60 events, and worker-online


def test_an_idle_worker_stays_within_its_calls(jobs: Jobs, emulator: Emulator) -> None:
    options = {
        "wait_time_seconds": 20 // FASTER,
        "control_pause_seconds": 60 / FASTER,
        "control_after_job_seconds": 0,
    }
    with Counting(emulator.endpoint) as proxy:
        jobs.start(
            f"--heartbeat-interval={HEARTBEAT_S / FASTER:.0f}",
            **SETTINGS,
            broker_transport_options=options,
            environ={"AWS_ENDPOINT_URL": proxy.endpoint},
        )
        eventually(lambda: proxy.calls[f"ReceiveMessage {jobs.name}"] > 1)
        before, began = proxy.calls.copy(), time.monotonic()
        eventually(lambda: proxy.calls["Publish"] - before["Publish"] >= 2)  # two heartbeats
        hours = (time.monotonic() - began) * FASTER / 3600
        calls = proxy.calls - before

    assert calls.total() / hours <= MAX_CALLS_AN_HOUR, calls


def test_a_job_wakes_a_worker_that_does_not_listen(jobs: Jobs) -> None:
    jobs.start(**SETTINGS, broker_transport_options={**RESTING, "control_after_command_seconds": 0})
    inspect = jobs.app.control.inspect(timeout=1)
    eventually(lambda: inspect.ping() is None, every_s=3)  # longer than its long poll

    jobs.send("mark", "waker", 20)

    eventually(inspect.ping)
    assert not jobs.ended("waker")


def test_a_command_keeps_a_worker_listening(jobs: Jobs, emulator: Emulator) -> None:
    with Counting(emulator.endpoint) as proxy:
        jobs.start(
            **SETTINGS,
            broker_transport_options=RESTING,
            environ={"AWS_ENDPOINT_URL": proxy.endpoint},
        )
        jobs.send("mark", "waker", 3)
        eventually(jobs.app.control.inspect(timeout=1).ping)
        eventually(lambda: jobs.ended("waker"))

        def polls() -> int:
            return sum(n for what, n in proxy.calls.items() if "pidbox" in what and "Rec" in what)

        before = polls()
        eventually(lambda: polls() > before + 2)
