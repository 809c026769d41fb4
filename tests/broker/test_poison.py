"""No bytes in a queue can stop a worker; each bad message is dead-lettered with its reason."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
from celery.worker.consumer import Consumer as StockConsumer
from jobs import Jobs, MakeJobs, log_of

from cis_tasks.broker import poison
from support.cloud import eventually

KB = 1024


def message(
    body: Any = ([], {}, {}), headers: Any = None, properties: Any = None, **envelope: Any
) -> str:
    """A task of protocol 2 with something wrong, as kombu would write it."""
    task_id = str(uuid.uuid4())
    text = body if isinstance(body, str) else json.dumps(body)
    whole = {
        "body": base64.b64encode(text.encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "mark", "id": task_id, "lang": "py", "argsrepr": "", **(headers or {})},
        "properties": {
            "correlation_id": task_id,
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "delivery_tag": task_id,
            "body_encoding": "base64",
            **(properties or {}),
        },
        **envelope,
    }
    return base64.b64encode(json.dumps(whole).encode()).decode()


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


BAD = {
    "blank": "   ",
    "no base64": "%%%",
    "cut base64": "eyJib2R5Ijo",
    "bytes": base64.b64encode(bytes(range(256))).decode(),
    "no json": base64.b64encode(b"{nope").decode(),
    "json text": json.dumps("text"),
    "json null": "null",
    "json list": "[1, 2]",
    "empty object": "{}",
    "only properties": '{"properties": {}}',
    "null properties": '{"properties": null, "body": "x"}',
    "list of properties": '{"properties": [], "body": "x"}',
    "delivery info is text": message(properties={"delivery_info": "x"}),
    "bad body encoding": message(properties={"body_encoding": "rot13"}),
    "numeric body encoding": message(properties={"body_encoding": 7}),
    "body is no base64": json.dumps(
        {
            "body": "é!",
            "properties": {"body_encoding": "base64"},
            "headers": {"task": "mark", "id": "1"},
        }
    ),
    "body is a list": json.dumps({"body": [1], "properties": {}, "headers": {}}),
    "headers are a list": json.dumps({"body": "e30=", "properties": {}, "headers": [1]}),
    "headers are text": json.dumps({"body": "e30=", "properties": {}, "headers": "x"}),
    "no headers": json.dumps({"body": "e30=", "properties": {}, "headers": {}}),
    "unknown task": message(headers={"task": "no.such.task"}),
    "task is a list": message(headers={"task": ["mark"]}),
    "task is null": message(headers={"task": None}),
    "no id": message(headers={"id": None}),
    "id is an object": message(headers={"id": {"a": 1}}),
    "unknown content type": message(**{"content-type": "application/x-none"}),
    "pickle": message(**{"content-type": "application/x-python-serialize"}),
    "content type is a list": message(**{"content-type": ["x"]}),
    "bad compression": message(headers={"compression": "application/x-gzip"}),
    "unknown compression": message(headers={"compression": "none-such"}),
    "task body is text": message('"text"'),
    "task body is an object": message("{}"),
    "task body is short": message("[[], {}]"),
    "arguments are text": message('["abc", {}, {}]'),
    "keywords are a list": message("[[], [], {}]"),
    "embed is a list": message("[[], {}, [1]]"),
    "time limit is text": message(headers={"timelimit": "x"}),
    "time limit of three": message(headers={"timelimit": [1, 2, 3]}),
    "time limit of texts": message(headers={"timelimit": ["a", "b"]}),
    "eta is no time": message(headers={"eta": "tomorrow"}),
    "eta is a number": message(headers={"eta": 5}),
    "expires is an object": message(headers={"expires": {}}),
    "retries are text": message(headers={"retries": "many"}),
    "reply_to is a list": message(properties={"reply_to": [1]}),
    "stamps are a list": message(headers={"stamps": [1], "stamped_headers": "x"}),
    "deep envelope": nested(100_000),
    "deep headers": message(headers={"deep": json.loads(nested(500))}),
    "deep arguments": message(f"[[{nested(100_000)}], {{}}, {{}}]"),
    "deep enough to pickle badly": message(f"[[{nested(800)}], {{}}, {{}}]"),
    "a typed value that fails": json.dumps(
        {"body": "x", "properties": {"__type__": "datetime", "__value__": 1}}
    ),
    "oversized headers": message(headers={"task": "x" * 500 * KB}),
    "a megabyte": "A" * (KB * KB),
    "a megabyte of brackets": "[" * (KB * KB),
}


def test_every_kind_of_poison_is_dead_lettered_and_the_worker_goes_on(jobs: Jobs) -> None:
    worker = jobs.start("--prefetch-multiplier", "4")
    for body in BAD.values():
        jobs.put(body)
    eventually(lambda: jobs.dead() == len(BAD) and jobs.drained())
    assert worker.exit_code is None
    jobs.send("mark", "good")
    eventually(lambda: jobs.ended("good") and jobs.drained())
    reasons = [line for line in log_of(worker).splitlines() if "Poison on" in line]
    assert len(reasons) >= len(BAD)
    assert worker.log.stat().st_size < 2 * KB * KB  # a bad message's whole body is in no line


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_poison_between_jobs_harms_none_on_other_pools(jobs: Jobs, pool: str) -> None:
    worker = jobs.start("--pool", pool, "--prefetch-multiplier", "4")
    kinds = ("empty object", "unknown task", "time limit is text", "deep arguments")
    for kind in kinds:
        jobs.put(BAD[kind])
        jobs.send("mark", kind.replace(" ", "_"))
    eventually(lambda: all(jobs.ended(kind.replace(" ", "_")) for kind in kinds))
    eventually(lambda: jobs.dead() == len(kinds) and jobs.drained())
    assert worker.exit_code is None


def test_without_a_dead_letter_queue_poison_is_deleted_and_the_log_says_so(
    make_jobs: MakeJobs,
) -> None:
    jobs = make_jobs(dead_letters=False)
    worker = jobs.start()
    jobs.put("{}")
    jobs.put(BAD["unknown task"])
    eventually(jobs.drained)
    eventually(lambda: log_of(worker).count("has no dead-letter queue") == 2)


def test_stock_tasks_pass() -> None:
    assert poison.envelope(base64.b64decode(message()).decode())["headers"]["task"] == "mark"
    assert not poison.nested_too_deep(nested(300), json.loads(nested(300)))
    assert not poison.nested_too_deep("[" * 5000, ["[" * 5000])
    assert StockConsumer.on_unknown_message  # the hooks that ours overrides are still Celery's
