"""Replies between processes: who is told, who is not, what it costs and what is left behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import results_app
from celery import Celery, chain, group
from results_place import WAIT_S, Place, Task, app, make_place, place, task, worker

from cis_tasks.broker import calls, replies
from cis_tasks.broker.clients import Access
from cis_tasks.broker.owners import Owner
from cis_tasks.broker.reaper import reap_of
from cis_tasks.broker.replies import Exchange, Reply, ReplyQueue, Sender
from cis_tasks.local.emulator import Emulator
from cis_tasks.local.environment import of_worker
from support.cloud import eventually

__all__ = ["app", "place", "task", "worker"]


@pytest.fixture
def exchange(place: Place) -> Exchange:
    return Exchange(f"{place.prefix}own-", Access(), wait_s=2)


@pytest.fixture
def own(exchange: Exchange) -> Iterator[ReplyQueue]:
    made = ReplyQueue(exchange)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _new_process(place: Place) -> Iterator[None]:
    """Each test begins as a process that has not waited yet."""
    replies.close_all()
    yield
    replies.close_all()


def news(task_id: str, payload: str | bytes | None = "{}", status: str = "SUCCESS") -> Reply:
    return Reply(task_id, status, time.time(), payload)


# On the way


@pytest.mark.parametrize("payload", ['{"é": 1}', b"\x00\xff", None])
def test_a_reply_is_read_as_it_was_written(payload: str | bytes | None) -> None:
    reply = news("id", payload)
    assert Reply.from_message(reply.to_message()) == reply


def test_a_large_reply_travels_without_its_payload() -> None:
    reply = news("id", "x" * (replies.MAX_PAYLOAD + 1))
    assert Reply.from_message(reply.to_message()).payload is None


@pytest.mark.parametrize("body", ["", "null", "[]", "{", '{"task_id": "a"}', '{"payload": 1}'])
def test_what_is_no_reply_is_refused_by_name(body: str) -> None:
    with pytest.raises(ValueError, match="no reply"):
        Reply.from_message(body)


def test_workers_write_to_reply_queues_of_their_own_prefix_only() -> None:
    exchange = Exchange("mine-", Access())
    first, second = exchange.new_address(), exchange.new_address()
    assert exchange.addresses(f"{first},{second}") == [first, second]
    others = [Exchange("other-", Access()).new_address(), "mine-jobs", "mine-reply-1/2", "", None]
    assert [exchange.addresses(other) for other in others] == [[]] * len(others)


# One queue per process


def test_a_reply_comes_to_those_that_listen_for_it_and_to_nobody_else(
    own: ReplyQueue, exchange: Exchange
) -> None:
    sender = Sender(exchange)
    with own.listen(["a"]) as first, own.listen(["a", "b"]) as second, own.listen(["c"]) as third:
        eventually(lambda: own.live_since)
        sender.send(own.address, news("a"))
        assert [reply.task_id for reply in first.take(WAIT_S)] == ["a"]
        sender.send(own.address, news("b"))
        eventually(lambda: {reply.task_id for reply in second.take(0.1)} & {"b"})
        assert first.take(0) == third.take(0) == []


def test_what_comes_before_somebody_listens_is_kept(own: ReplyQueue, exchange: Exchange) -> None:
    with own.listen(["other"]) as inbox:
        eventually(lambda: own.live_since)
        Sender(exchange).send(own.address, news("early"))
        Sender(exchange).send(own.address, news("other"))
        assert inbox.take(WAIT_S)
        with own.listen(["early"]) as late:
            assert late.take(WAIT_S)


def test_garbage_in_the_queue_is_passed_over(own: ReplyQueue, exchange: Exchange) -> None:
    with own.listen(["a"]) as inbox:
        eventually(lambda: own.live_since)
        url = boto3.client("sqs").get_queue_url(QueueName=own.address)["QueueUrl"]
        for body in ("not json", '{"task_id": 1, "status": []}'):
            boto3.client("sqs").send_message(QueueUrl=url, MessageBody=body)
        Sender(exchange).send(own.address, news("a"))
        assert inbox.take(WAIT_S)


def test_a_reply_to_a_process_that_is_gone_is_dropped(exchange: Exchange) -> None:
    Sender(exchange).send(exchange.new_address(), news("a"))


def test_the_queue_names_its_owner(own: ReplyQueue, exchange: Exchange) -> None:
    with own.listen(["a"]):
        eventually(lambda: own.live_since)
    sqs = boto3.client("sqs")
    tags = sqs.list_queue_tags(QueueUrl=sqs.get_queue_url(QueueName=own.address)["QueueUrl"])
    owner, this = Owner.of(tags["Tags"]), Owner.this()
    assert owner is not None
    assert (owner.host, owner.pid, owner.started) == (this.host, this.pid, this.started)
    assert tags["Tags"].items() >= this.tags(exchange.prefix).items() - {
        item for item in this.tags(exchange.prefix).items() if item[0].endswith("seen")
    }


# Costs


def test_an_idle_process_makes_no_calls(own: ReplyQueue, exchange: Exchange) -> None:
    with own.listen(["a"]):
        eventually(lambda: own.live_since)
    # The receive that is under way ends by itself; then there is no other.
    eventually(lambda: quiet(exchange.wait_s + 0.5))
    calls.reset()
    threading.Event().wait(exchange.wait_s + 0.5)
    assert calls.made() == {}


def quiet(seconds: float) -> bool:
    before = calls.made()
    threading.Event().wait(seconds)
    return calls.made() == before


def test_a_process_that_only_publishes_has_no_queue(task: Task, place: Place) -> None:
    calls.reset()
    result = task("add").delay(1, 1)
    eventually(lambda: (place.stored_meta(result.id) or {}).get("status") == "SUCCESS")
    assert "sqs.CreateQueue" not in calls.made()
    assert place.reply_queues() == set()


def test_a_worker_that_publishes_and_never_waits_has_no_queue(task: Task, place: Place) -> None:
    result = task("publish_children").delay([1, 2, 3])
    result.get(timeout=WAIT_S)
    chain(task("add").s(1, 1), group(task("add").s(1), task("add").s(2)), task("total").s())().get(
        timeout=WAIT_S
    )
    [child.get(timeout=WAIT_S) for child in result.children]
    assert len(place.reply_queues()) == 1  # that of this process


def test_subtasks_answer_to_whoever_asked_for_the_first(task: Task, app: Celery) -> None:
    task("add").delay(0, 0).get(timeout=WAIT_S)
    seen: set[str] = set()
    result = chain(task("add").s(1, 1), task("add").s(2), task("add").s(3))()
    result.get(timeout=WAIT_S, on_message=lambda meta: seen.add(meta["task_id"]))
    assert result.id in seen


# When things go wrong


def test_a_lost_reply_costs_seconds_not_the_result(task: Task, app: Celery) -> None:
    task("add").delay(0, 0).get(timeout=WAIT_S)
    result = task("sleep").delay(0.5)
    sqs = boto3.client("sqs")
    url = sqs.get_queue_url(QueueName=app.backend.replies.address)["QueueUrl"]
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(lambda: result.get(timeout=WAIT_S))
        eventually(lambda: robbed(sqs, url) or waiting.done())
        assert waiting.result() == 0.5


def robbed(sqs: Any, url: str) -> bool:
    return bool(sqs.receive_message(QueueUrl=url, VisibilityTimeout=900).get("Messages"))


def test_a_queue_that_somebody_deletes_is_replaced(task: Task, app: Celery, place: Place) -> None:
    task("add").delay(0, 0).get(timeout=WAIT_S)
    before = app.backend.replies.address
    sqs = boto3.client("sqs")
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=before)["QueueUrl"])

    def replaced() -> bool:
        assert task("add").delay(1, 1).get(timeout=WAIT_S) == 2
        return app.backend.replies.address != before

    eventually(replaced)
    assert task("add").delay(2, 2).get(timeout=WAIT_S) == 4
    assert place.reply_queues() == {app.backend.replies.address}


def test_a_process_without_a_reply_queue_polls_s3(
    task: Task, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise PermissionError("CreateQueue is not allowed")

    monkeypatch.setattr(ReplyQueue, "_create", refuse)
    assert task("add").delay(1, 1).get(timeout=WAIT_S) == 2


def test_a_message_without_a_reply_address_is_answered_in_s3_alone(
    task: Task, app: Celery, place: Place
) -> None:
    calls.reset()
    task_id = str(uuid.uuid4())
    publish_as_others_do(app, task_id)
    assert app.AsyncResult(task_id).get(timeout=WAIT_S) == 3


def publish_as_others_do(app: Celery, task_id: str) -> None:
    """A protocol 2 message as a publisher without Celery writes it: ``reply_to`` is empty."""
    message = app.amqp.as_task_v2(task_id, "results_app.add", args=(1, 2))
    with app.producer_or_acquire() as producer:
        producer.publish(
            message.body,
            headers=message.headers,
            exchange="",
            routing_key=app.conf.task_default_queue,
            serializer="json",
            correlation_id=task_id,
            reply_to="",
            MessageGroupId=task_id,
            MessageDeduplicationId=task_id,
        )


# Many at once


def test_threads_get_their_own_results(app: Celery, worker: Any) -> None:
    def ask(number: int) -> tuple[list[float], set[str], set[str]]:
        seen: set[str] = set()
        results = [app.tasks["results_app.add"].delay(number, n) for n in range(5)]
        values = [
            result.get(timeout=2 * WAIT_S, on_message=lambda meta: seen.add(meta["task_id"]))
            for result in results
        ]
        return values, seen, {result.id for result in results}

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    for number, (values, seen, ids) in enumerate(answers):
        assert values == [number + n for n in range(5)]
        assert seen <= ids


def test_processes_have_queues_of_their_own_and_delete_them(task: Task, place: Place) -> None:
    code = (
        "import sys\n"
        "results = [task('add').delay(n, {0}) for n in range(5)]\n"
        "print([r.get(timeout=120) for r in results], app.backend.replies.address)"
    )
    with ThreadPoolExecutor(3) as threads:
        printed = list(threads.map(lambda n: place.run_client(code.format(n)), (0, 10, 20)))
    assert [line.rpartition(" ")[0] for line in printed] == [
        str([n + k for n in range(5)]) for k in (0, 10, 20)
    ]
    assert len({line.rpartition(" ")[2] for line in printed}) == 3
    assert place.reply_queues() == set()


def test_a_forked_child_has_a_queue_of_its_own(task: Task, app: Celery, place: Place) -> None:
    task("add").delay(0, 0).get(timeout=WAIT_S)
    mine = app.backend.replies.address
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=ask_in_child, args=(app, answers))
    child.start()
    value, address = answers.get()
    child.join()
    assert value == 3
    assert address != mine
    assert place.reply_queues() == {mine}
    assert task("add").delay(2, 2).get(timeout=WAIT_S) == 4


def ask_in_child(app: Celery, answers: Any) -> None:
    value = app.tasks["results_app.add"].delay(1, 2).get(timeout=WAIT_S)
    answers.put((value, app.backend.replies.address))


def test_a_worker_that_has_waited_deletes_its_queue_when_it_stops(
    emulator: Emulator, tmp_path: Path
) -> None:
    with make_place(emulator, tmp_path) as place:
        own, client = place.start_worker("-c", "2"), results_app.make_app()
        try:
            wait_for_child = client.tasks["results_app.wait_for_child"]
            assert wait_for_child.delay(1, 1).get(timeout=WAIT_S) == 2
            mine = client.backend.replies.address
            assert len(place.reply_queues()) == 2
        finally:
            own.stop()
        assert place.reply_queues() == {mine}


def test_what_a_killed_client_leaves_is_reaped_and_nobody_elses(
    task: Task, app: Celery, place: Place
) -> None:
    task("add").delay(0, 0).get(timeout=WAIT_S)
    mine = place.reply_queues()
    code = "from results_app import app; app.tasks['results_app.sleep'].delay(3).get()"
    environment = of_worker(os.environ, place.variables, 1) | place.path
    client = subprocess.Popen([sys.executable, "-c", code], env=environment)
    left = eventually(lambda: place.reply_queues() - mine)
    client.kill()
    client.wait()

    assert set(reap_of(app)) == left
    assert place.reply_queues() == mine


def test_names_fit_into_sqs() -> None:
    assert len(Exchange("p" * 30, Access()).new_address()) <= 80
    assert uuid.UUID(Exchange("", Access()).new_address().removeprefix("reply-"))
