"""A worker goes on receiving whatever happens to its receives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest
from faults import Faulty, faulty
from jobs import Jobs, MakeJobs, log_of

from cis_tasks.broker.receiver import Receiver, Room, Work
from cis_tasks.local.emulator import Emulator
from support.cloud import eventually


@pytest.fixture
def endpoint(emulator: Emulator) -> Iterator[Faulty]:
    with faulty(emulator.endpoint) as running:
        yield running


def test_a_failed_receive_is_followed_by_another(jobs: Jobs, endpoint: Faulty) -> None:
    worker = jobs.start(environ={"AWS_ENDPOINT_URL": endpoint.url})
    for fault, times in (("500", 3), ("403", 3), ("garbage", 3), ("drop", 3), ("hang", 1)):
        endpoint.fault = lambda operation, fault=fault: (
            fault if operation == "ReceiveMessage" else None
        )
        before = endpoint.calls["ReceiveMessage"]
        eventually(
            lambda before=before, times=times: endpoint.calls["ReceiveMessage"] >= before + times
        )
        endpoint.fault = lambda _operation: None
        jobs.send("mark", fault)
        eventually(lambda fault=fault: jobs.ended(fault) and jobs.drained())
    assert worker.exit_code is None


def test_a_worker_that_cannot_receive_ends_with_a_failure_after_its_job(
    jobs: Jobs, endpoint: Faulty
) -> None:
    jobs.send("hold", "a")
    worker = jobs.start(
        "--prefetch-multiplier",
        "2",
        environ={"AWS_ENDPOINT_URL": endpoint.url},
        broker_transport_options={"poll_give_up_s": 1},
    )
    eventually(lambda: jobs.started("a"))
    endpoint.fault = lambda operation: "500" if operation == "ReceiveMessage" else None
    eventually(lambda: "can receive no more" in log_of(worker))
    jobs.let_go()
    assert eventually(lambda: worker.exit_code) == 1
    assert jobs.ended("a")
    assert jobs.drained()


def test_one_lost_answer_to_each_kind_of_call_loses_no_job(
    make_jobs: MakeJobs, endpoint: Faulty
) -> None:
    jobs = make_jobs(visibility_s=3)
    seen: set[str] = set()

    def lose_first(operation: str) -> str | None:
        if operation in seen:
            return None
        seen.add(operation)
        return "lost"

    endpoint.fault = lose_first
    jobs.start("--prefetch-multiplier", "4", environ={"AWS_ENDPOINT_URL": endpoint.url})
    for name in "abcdef":
        jobs.send("mark", name, 0.3)
    eventually(lambda: all(map(jobs.ended, "abcdef")) and jobs.drained())
    assert {"ReceiveMessage", "DeleteMessageBatch", "GetQueueAttributes"} <= seen
    assert jobs.dead() == 0


def test_under_load_receives_and_deletes_take_ten_messages_each(
    jobs: Jobs, endpoint: Faulty
) -> None:
    for index in range(100):
        jobs.send("mark", f"m{index}")
    jobs.start("--prefetch-multiplier", "20", environ={"AWS_ENDPOINT_URL": endpoint.url})
    eventually(lambda: all(jobs.ended(f"m{index}") for index in range(100)) and jobs.drained())
    assert endpoint.calls["DeleteMessageBatch"] <= 30
    assert endpoint.calls["ReceiveMessage"] <= 20 + 5  # the last find nothing


def test_a_job_that_starts_makes_room_for_the_next_though_nobody_tells() -> None:
    waiting, looked, asked = [1], threading.Event(), threading.Event()

    def room() -> Room:
        looked.set()
        return Room(free=1, limit=2, waiting=waiting[0])

    def receive(count: int) -> Sequence[Mapping[str, str]]:
        asked.set()
        time.sleep(0.01)
        return []

    receiver = Receiver(
        Work("q", room, threading.Condition(), receive, lambda _: None, lambda _: None)
    )
    try:
        assert looked.wait(60)
        assert not asked.is_set()  # the one that waits takes the process that is free
        waiting[0] = 0
        assert asked.wait(60)
    finally:
        receiver.end()
