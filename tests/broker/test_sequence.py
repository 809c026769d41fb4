"""Workers see the commands and jobs of one process in the order in which it sent them."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import SETTINGS, fleet
from jobs import Jobs

from cis_tasks.broker.sequence import AFTER_COMMAND
from cis_tasks.local.emulator import Emulator
from support.cloud import eventually

TIMES = 5  # either might come first by chance


@pytest.fixture(scope="module")
def one(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folder: Path = tmp_path_factory.mktemp("one")
    with fleet(emulator, folder) as jobs:
        jobs.start(**SETTINGS)
        yield jobs


def test_a_task_that_is_revoked_and_then_published_is_not_run(one: Jobs) -> None:
    names = [f"revoked-{index}" for index in range(TIMES)]
    for name in names:
        task_id = str(uuid.uuid4())
        one.app.control.revoke(task_id)
        one.send("mark", name, task_id=task_id)
    one.send("mark", "kept")
    eventually(lambda: one.ended("kept") and one.drained())
    assert [name for name in names if one.started(name)] == []


def test_inspect_knows_a_task_that_was_published_just_before(one: Jobs) -> None:
    inspect = one.app.control.inspect([f"w1@{socket.gethostname()}"], timeout=60)
    for _ in range(TIMES):
        task_id = one.send("mark", "later", countdown=600)
        (scheduled,) = inspect.scheduled().values()
        assert task_id in [each["request"]["id"] for each in scheduled]
        one.app.control.revoke(task_id)


def test_a_job_whose_command_never_comes_is_run(one: Jobs) -> None:
    attribute = {"DataType": "String", "StringValue": "lost"}
    with one.app.connection_for_write() as connection:
        producer = connection.Producer()
        task = one.app.tasks["mark"]
        task.apply_async(
            ["after"], producer=producer, message_attributes={AFTER_COMMAND: attribute}
        )
    eventually(lambda: one.ended("after"))
