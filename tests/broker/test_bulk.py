"""Bulk sends take one call for ten messages, and say what was not sent."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from celery import Signature, group
from faults import Faulty, faulty
from jobs import Jobs, MakeJobs, envelope
from kombu.exceptions import OperationalError

from cis_tasks.broker import bulk
from cis_tasks.broker.bulk import NotSentError, batched
from cis_tasks.local.emulator import Emulator
from support.cloud import eventually


@pytest.fixture
def endpoint(emulator: Emulator) -> Iterator[Faulty]:
    with faulty(emulator.endpoint) as running:
        yield running


@pytest.fixture
def jobs_behind(make_jobs: MakeJobs, endpoint: Faulty, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    made = make_jobs()
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.url)
    monkeypatch.setattr(bulk, "LINGER_S", 60.0)  # a pause of this machine shall add no call
    return made


def test_a_group_is_sent_ten_to_a_call_at_the_end_of_the_block(
    jobs_behind: Jobs, endpoint: Faulty
) -> None:
    mark = jobs_behind.app.tasks["mark"]
    with batched():
        group(mark.si(f"m{index}") for index in range(25)).apply_async()
        assert jobs_behind.counts()[0] == 20
    assert jobs_behind.counts()[0] == 25
    assert endpoint.calls["SendMessageBatch"] == 3
    assert endpoint.calls["SendMessage"] == 0


def test_messages_of_one_group_stay_in_order_and_run(jobs: Jobs) -> None:
    with batched():
        for index in range(15):
            jobs.send("mark", f"m{index}", MessageGroupId="one")
    jobs.start("--prefetch-multiplier", "20")
    eventually(lambda: all(jobs.ended(f"m{index}") for index in range(15)) and jobs.drained())
    starts = [float(jobs.marks(f"m{index}")[0][2]) for index in range(15)]
    assert starts == sorted(starts)


def test_large_messages_share_a_call_only_as_far_as_sqs_takes_them(
    jobs_behind: Jobs, endpoint: Faulty
) -> None:
    with batched():
        for _ in range(4):
            jobs_behind.send("mark", "x" * 250_000)  # half as large again on the wire
    assert jobs_behind.counts()[0] == 4
    assert endpoint.calls["SendMessageBatch"] >= 2


def test_a_failed_call_is_made_again_and_sends_nothing_twice(
    jobs_behind: Jobs, endpoint: Faulty
) -> None:
    left = ["lost"]
    endpoint.fault = lambda operation: (
        left.pop() if left and operation == "SendMessageBatch" else None
    )
    with batched():
        for index in range(5):
            jobs_behind.send("mark", f"m{index}")
    assert jobs_behind.counts()[0] == 5


def test_what_sqs_refuses_is_named(jobs_behind: Jobs, endpoint: Faulty) -> None:
    failed = {"Id": "1", "SenderFault": True, "Code": "Why", "Message": "Not."}
    answer = json.dumps({"Successful": [], "Failed": [failed]})
    endpoint.fault = lambda operation: answer if operation == "SendMessageBatch" else None

    def send() -> None:
        with batched():
            jobs_behind.send("mark", "good", task_id="good")
            jobs_behind.send("mark", "bad", task_id="bad")

    with pytest.raises(NotSentError) as caught:
        send()
    assert caught.value.refused == [("bad", "Why: Not.")]
    assert endpoint.calls["SendMessageBatch"] == 1
    assert bulk.current() is None


def test_an_error_in_the_block_keeps_what_was_published(jobs: Jobs) -> None:
    def fail() -> None:
        with batched():
            jobs.send("mark", "a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert jobs.counts()[0] == 1
    assert bulk.current() is None


def test_a_group_is_batched_by_itself_and_in_its_queue_when_the_call_returns(
    jobs_behind: Jobs, endpoint: Faulty
) -> None:
    mark = jobs_behind.app.tasks["mark"]
    group(mark.si(f"m{index}") for index in range(25)).apply_async()
    assert jobs_behind.counts()[0] == 25
    assert endpoint.calls["SendMessageBatch"] == 3
    mark.delay("alone")
    assert jobs_behind.counts()[0] == 26
    assert endpoint.calls["SendMessage"] == 1


def test_members_from_a_slow_generator_are_sent_while_it_makes_the_next(jobs: Jobs) -> None:
    def members() -> Iterator[Signature]:
        for index in range(5):
            if index == 4:
                eventually(lambda: jobs.counts()[0] > 0)
            yield jobs.app.tasks["mark"].si(f"m{index}")

    group(members()).apply_async()
    assert jobs.counts()[0] == 5
    bodies = [envelope(message)["headers"]["argsrepr"] for message in jobs.received()]
    assert bodies == [f"('m{index}',)" for index in range(5)]


def test_chunks_are_batched_too(jobs_behind: Jobs, endpoint: Faulty) -> None:
    jobs_behind.app.tasks["mark"].chunks([(f"m{index}",) for index in range(24)], 2).apply_async()
    assert jobs_behind.counts()[0] == 12
    assert endpoint.calls["SendMessageBatch"] == 2


def test_the_caller_of_a_group_hears_of_what_sqs_refused_every_time(
    jobs_behind: Jobs, endpoint: Faulty
) -> None:
    failed = {"Id": "1", "SenderFault": True, "Code": "Why", "Message": "Not."}
    answer = json.dumps({"Successful": [], "Failed": [failed]})
    endpoint.fault = lambda operation: answer if operation == "SendMessageBatch" else None
    mark = jobs_behind.app.tasks["mark"]
    members = group(mark.si("good"), mark.si("bad").set(task_id="bad"))
    for _ in range(2 * jobs_behind.app.producer_pool.limit):  # none of its producers is lost
        with pytest.raises(OperationalError, match=r"1 message\(s\).*bad: Why: Not\."):
            members.apply_async()
    endpoint.fault = lambda _: None
    mark.delay("alone")
    assert jobs_behind.counts()[0] == 1


def test_what_a_group_leaves_with_a_callers_own_producer_keeps_its_order(
    jobs_behind: Jobs, endpoint: Faulty
) -> None:
    mark = jobs_behind.app.tasks["mark"]
    with jobs_behind.app.producer_pool.acquire(block=True) as producer:
        group(mark.si("a"), mark.si("b")).apply_async(producer=producer)
        mark.apply_async(["c"], producer=producer)
        assert jobs_behind.counts()[0] == 0
    names = [envelope(message)["headers"]["argsrepr"] for message in jobs_behind.received()]
    assert names == ["('a',)", "('b',)", "['c']"]
    assert endpoint.calls["SendMessageBatch"] == 1
