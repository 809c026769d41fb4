"""Remote control of real workers, from clients that have no event loop."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import SETTINGS, fleet, names, prefix, queues, subscriptions, variables
from jobs import Jobs, log_of
from kombu import Exchange, Queue

from cis_tasks.broker.owned import belongings
from cis_tasks.broker.polling import parse
from cis_tasks.local.emulator import Emulator
from support.cloud import eventually, gone

PATIENCE_S = 60.0  # until all have answered, which `limit` says


@pytest.fixture(scope="module")
def two(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """A fleet of a prefork worker w1 and a threads worker w2."""
    with fleet(emulator, tmp_path_factory.mktemp("two")) as jobs:
        jobs.start(**SETTINGS)
        jobs.start("--pool", "threads", **SETTINGS)
        yield jobs


@pytest.fixture
def one(emulator: Emulator, tmp_path: Path) -> Iterator[Jobs]:
    with fleet(emulator, tmp_path) as jobs:
        jobs.start(**SETTINGS)
        yield jobs


@pytest.fixture(scope="module")
def kept(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """A fleet of one worker, for tests that leave it as they found it."""
    with fleet(emulator, tmp_path_factory.mktemp("kept")) as jobs:
        jobs.start(**SETTINGS)
        yield jobs


def node(name: str = "w1") -> str:
    return f"{name}@{socket.gethostname()}"


def ask(jobs: Jobs, *workers: str) -> Any:
    """Returns as soon as those workers have answered, w1 if none is named."""
    return jobs.app.control.inspect([node(name) for name in workers or ("w1",)], timeout=60)


@pytest.mark.parametrize(
    "question",
    [
        "active",
        "active_queues",
        "clock",
        "conf",
        "ping",
        "registered",
        "report",
        "reserved",
        "revoked",
        "scheduled",
        "stats",
    ],
)
def test_every_worker_answers(two: Jobs, question: str) -> None:
    answers = getattr(ask(two, "w1", "w2"), question)()

    assert names([answers]) == ["w1", "w2"]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("hello", {"from_node": "nobody@nowhere", "revoked": {}}),
        ("memsample", {}),
        ("query_task", {"ids": ["none"]}),
        ("enable_events", {}),
        ("heartbeat", {}),
        ("autoscale", {"max": 2, "min": 1}),
        ("terminate", {"task_id": "none", "signal": "TERM"}),
    ],
)
def test_rarer_commands_are_answered_too(
    kept: Jobs, command: str, arguments: dict[str, Any]
) -> None:
    # A worker sends no answer to a command that answers None, such as a heartbeat.
    none = command == "heartbeat"
    answers = kept.app.control.broadcast(
        command, arguments, reply=not none, destination=[node()], timeout=60
    )
    assert names(answers) == ([] if none else ["w1"])
    assert ask(kept).ping()


def test_an_answer_from_one_worker_does_not_wait_for_the_timeout(two: Jobs) -> None:
    inspect = ask(two, "w1")
    before = time.monotonic()

    assert inspect.ping()

    assert time.monotonic() - before < 5  # of the 10 that it was given


def test_a_caller_waits_no_longer_than_it_wants_to(two: Jobs) -> None:
    before = time.monotonic()

    assert two.app.control.inspect(["nobody@nowhere"], timeout=0.5).ping() is None

    assert time.monotonic() - before < 5  # a long poll takes longer


def test_many_threads_ask_at_once_and_each_gets_its_own_answers(two: Jobs) -> None:
    answers: list[Any] = []

    def ask_often(question: str) -> None:
        for _ in range(3):
            answer = getattr(two.app.control.inspect(timeout=PATIENCE_S, limit=2), question)()
            answers.append((question, answer))

    questions = ["ping", "registered", "active_queues", "clock"]
    threads = [threading.Thread(target=ask_often, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 12
    kinds = {"ping": "ok", "clock": "clock"}
    for question, answer in answers:
        assert names([answer]) == ["w1", "w2"]
        for reply in answer.values():
            assert kinds[question] in reply if question in kinds else isinstance(reply, list)
    assert len(queues(two, "replies-")) == 1


def test_the_command_line_asks_from_a_process_of_its_own(two: Jobs) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "celery", "-A", "jobs_app", "inspect", "ping"),
            *("-t", "60", "-d", f"{node('w1')},{node('w2')}"),
        ],
        env={**os.environ, **variables(two)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert "2 nodes online" in done.stdout, done.stdout + done.stderr
    assert len(queues(two, "replies-")) <= 1  # its own is gone with it


def test_a_forked_child_asks_with_a_queue_of_its_own(two: Jobs) -> None:
    two.app.control.ping(timeout=PATIENCE_S, limit=2)
    ours = queues(two, "replies-")
    child = os.fork()
    if child == 0:
        answered = names(two.app.control.ping(timeout=PATIENCE_S, limit=2)) == ["w1", "w2"]
        belongings().drop_all()
        os._exit(0 if answered else 1)

    _, status = os.waitpid(child, 0)

    assert status == 0
    assert queues(two, "replies-") == ours


def test_a_running_task_is_found_and_terminated(kept: Jobs) -> None:
    task_id = kept.send("mark", "long", 60)
    eventually(lambda: kept.started("long"))

    found = ask(kept).query_task(task_id)
    kept.app.control.revoke(task_id, terminate=True)

    [[state, info]] = [tasks[task_id] for tasks in found.values()]
    assert (state, info["name"]) == ("active", "mark")
    eventually(lambda: task_id in log_of(kept.workers[0]).partition("erminating")[2])
    eventually(lambda: not ask(kept).active()[node()])
    assert not kept.ended("long")


def test_a_waiting_task_is_revoked_by_id_and_by_stamp(kept: Jobs) -> None:
    control = kept.app.control
    at_once: dict[str, Any] = {"reply": True, "destination": [node()], "timeout": 10}
    control.revoke("11111111-0000-4000-8000-000000000000", **at_once)
    control.revoke_by_stamped_headers({"batch": ["7"]}, **at_once)

    kept.send("mark", "by-id", task_id="11111111-0000-4000-8000-000000000000")
    kept.app.signature("mark", args=["by-stamp"]).stamp(batch="7").apply_async()
    kept.send("mark", "kept")

    eventually(lambda: kept.ended("kept"))
    eventually(kept.drained)
    assert kept.started("by-id") == kept.started("by-stamp") == 0


def test_limits_pool_and_consumers_are_changed(kept: Jobs) -> None:
    control, at = kept.app.control, [node()]

    def change(command: str, *args: Any, **options: Any) -> str:
        [reply] = getattr(control, command)(
            *args, **options, destination=at, reply=True, timeout=60
        )
        return str(reply[at[0]]["ok"])

    assert "grow" in change("pool_grow", 1)
    eventually(lambda: len(ask(kept).stats()[at[0]]["pool"]["processes"]) == 2)
    assert "shrink" in change("pool_shrink", 1)
    assert "no longer consuming" in change("cancel_consumer", kept.name)
    eventually(lambda: not ask(kept).active_queues()[at[0]])
    change("add_consumer", kept.name)
    eventually(lambda: ask(kept).active_queues()[at[0]])
    kept.send("mark", "after")
    eventually(lambda: kept.ended("after"))


def test_a_rate_limit_holds_jobs_back(one: Jobs) -> None:
    options: dict[str, Any] = {"reply": True, "destination": [node()], "timeout": 10}
    [reply] = one.app.control.rate_limit("mark", "1/h", **options)
    assert "rate limit set" in reply[node()]["ok"]

    task_ids = [one.send("mark", "a"), one.send("mark", "b")]

    eventually(lambda: all(f"[{each}] received" in log_of(one.workers[0]) for each in task_ids))
    eventually(lambda: one.ended("a") or one.ended("b"))
    assert one.started("a") + one.started("b") == 1


def test_a_time_limit_ends_a_job(kept: Jobs) -> None:
    options: dict[str, Any] = {"reply": True, "destination": [node()], "timeout": 10}
    [reply] = kept.app.control.time_limit("mark", hard=1, **options)
    assert "time limits set" in reply[node()]["ok"]

    task_id = kept.send("mark", "too-long", 60)

    hit = f"Hard time limit (1s) exceeded for mark[{task_id}]"
    eventually(lambda: hit in log_of(kept.workers[0]))
    kept.app.control.time_limit("mark", **options)
    assert not kept.ended("too-long")


def test_a_queue_that_there_is_not_does_not_stop_a_worker(kept: Jobs) -> None:
    kept.app.control.add_consumer("nonsense")

    eventually(lambda: "not in predefined_queues" in log_of(kept.workers[0]))
    kept.send("mark", "after")
    eventually(lambda: kept.ended("after"))


@pytest.mark.parametrize("body", ["", "{", "e30=", '{"body": 1}', '{"body": "", "properties": {}}'])
def test_a_malformed_command_does_not_stop_a_worker(two: Jobs, body: str) -> None:
    [mailbox] = queues(two, "w1_")
    before = log_of(two.workers[0]).count("not Celery's")

    two.sqs.send_message(QueueUrl=mailbox, MessageBody=body or " ")

    eventually(lambda: log_of(two.workers[0]).count("not Celery's") > before)
    assert names(two.app.control.ping(timeout=PATIENCE_S, limit=2)) == ["w1", "w2"]


def test_shutdown_ends_a_worker_and_all_that_it_owned(one: Jobs) -> None:
    assert subscriptions(one)

    one.app.control.shutdown()

    eventually(lambda: gone(one.workers[0].pid))
    assert queues(one, "w1_") == subscriptions(one) == []


def test_a_child_of_the_pool_leaves_its_parents_mailbox_alone(kept: Jobs) -> None:
    at = node()
    kept.app.control.pool_grow(1, destination=[at], reply=True, timeout=60)
    kept.app.control.pool_shrink(1, destination=[at], reply=True, timeout=60)
    eventually(lambda: len(ask(kept).stats()[at]["pool"]["processes"]) == 1)

    assert ask(kept).ping()


def test_a_fanout_reaches_all_queues_and_a_topic_those_whose_pattern_matches(two: Jobs) -> None:
    got: list[tuple[str, Any]] = []
    news = Exchange("news", type="topic", durable=False)
    alarm = Exchange("alarm", type="fanout", durable=False)

    def read(name: str) -> Callable[[Any, Any], None]:
        return lambda body, _message: got.append((name, body))

    with two.app.connection() as connection, two.app.connection() as other:
        both = []
        for name, key in (("a", "sport.#"), ("b", "#")):
            bindings = [
                Queue(f"{name}.{exchange.name}", exchange, key, auto_delete=True)
                for exchange in (news, alarm)
            ]
            consumer = connection.Consumer(bindings, callbacks=[read(name)], no_ack=True)
            consumer.consume()
            both.append(consumer)
        producer = other.Producer()
        producer.publish("run", exchange=news, routing_key="sport.run", declare=[news])
        producer.publish("rain", exchange=news, routing_key="weather", declare=[news])
        producer.publish("fire", exchange=alarm, declare=[alarm])
        expected = [("a", "fire"), ("a", "run"), ("b", "fire"), ("b", "rain"), ("b", "run")]
        eventually(lambda: _drained(connection) or sorted(got) == expected)
        for consumer in both:
            consumer.cancel()

    assert not [name for name in subscriptions(two) if "news" in name or "alarm" in name]


def test_a_process_whose_mailbox_was_deleted_makes_another(kept: Jobs) -> None:
    [mailbox] = queues(kept, "w1_")

    kept.sqs.delete_queue(QueueUrl=mailbox)

    eventually(lambda: [url for url in queues(kept, "w1_") if url != mailbox])
    eventually(lambda: names(kept.app.control.ping(timeout=5, limit=1)) == ["w1"])


def test_names_are_as_long_as_sqs_allows(kept: Jobs) -> None:
    with kept.app.connection() as connection:
        channel = connection.default_channel
        name = channel.canonical_queue_name("x" * 200)

        assert len(name) == 80
        assert name.startswith(prefix(kept))
        assert name != channel.canonical_queue_name("x" * 201)


@pytest.mark.parametrize("body", ["", "x", "[]", "null", "{}", "e30=", "[" * 100_000])
def test_what_is_no_message_is_none(body: str) -> None:
    assert parse(body) is None


def _drained(connection: Any) -> bool:
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.2)
    return False
