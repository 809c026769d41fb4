"""Every message has a group and a deduplication id that let it through once, and only once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import kombu.pools
import pytest
from celery import chain, group
from jobs import Jobs, envelope, log_of, making_jobs

from cis_tasks.broker import fifo
from cis_tasks.local.emulator import Emulator
from support.cloud import eventually


@pytest.fixture(scope="module")
def working(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """A queue with a worker, for all tests of this file that watch jobs run."""
    with making_jobs(emulator, tmp_path_factory.mktemp("fifo")) as make:
        made = make()
        made.start()
        yield made


@pytest.fixture
def worked(working: Jobs) -> Jobs:
    kombu.pools.reset()  # other tests have used them for their queues
    working.app._after_fork()
    return working


def ids(jobs: Jobs) -> list[tuple[str, str]]:
    """(group, deduplication id) of each message that waits."""
    attributes = [message["Attributes"] for message in jobs.received()]
    return [(each["MessageGroupId"], each["MessageDeduplicationId"]) for each in attributes]


def test_a_task_is_a_group_of_its_own_and_publishing_it_twice_is_publishing_it_once(
    jobs: Jobs,
) -> None:
    jobs.send("mark", "a", task_id="one")
    jobs.send("mark", "a", task_id="one")
    jobs.send("mark", "b", task_id="two")
    assert sorted(ids(jobs)) == [("one", "one:0"), ("two", "two:0")]


def test_a_caller_may_pass_its_own_group(jobs: Jobs) -> None:
    mark = jobs.app.tasks["mark"]
    mark.apply_async(("a",), task_id="one", MessageGroupId="session")
    mark.s("b").set(MessageGroupId="session").apply_async(task_id="two")
    first = jobs.received()
    assert [message["Attributes"]["MessageGroupId"] for message in first] == ["session"] * 2


def test_canvas_gives_each_of_its_tasks_ids(jobs: Jobs) -> None:
    mark = jobs.app.tasks["mark"]
    group(mark.si("a"), mark.si("b")).apply_async()
    chain(mark.si("c"), mark.si("d")).apply_async()
    found = ids(jobs)
    assert len(found) == 3
    assert len({name for name, _ in found}) == 3
    assert all(deduplication.startswith(f"{name}:0") for name, deduplication in found)


def test_a_chain_and_its_first_task_alone_are_not_the_same_message(jobs: Jobs) -> None:
    mark = jobs.app.tasks["mark"]
    mark.apply_async(("a",), task_id="one")
    mark.apply_async(("a",), task_id="one", link=mark.si("b"))
    (first_group, first), (second_group, second) = ids(jobs)
    assert first_group == second_group == "one"
    assert first != second


@pytest.mark.parametrize("countdown_s", [0, 1])
def test_retries_pass_the_deduplication_window_and_keep_their_group(
    worked: Jobs, countdown_s: float
) -> None:
    name = f"again-{countdown_s}"
    worked.send("again", name, 3, countdown_s, MessageGroupId="session")
    eventually(lambda: worked.ended(name) and worked.drained())
    assert [mark[0] for mark in worked.marks(name)] == ["start:session"] * 4 + ["end"]
    assert worked.dead() == 0


def test_a_task_that_replaces_itself_is_not_swallowed(worked: Jobs) -> None:
    worked.send("turn", "turned")
    eventually(lambda: worked.ended("turned") and worked.drained())


def test_links_and_chains_run(worked: Jobs) -> None:
    mark = worked.app.tasks["mark"]
    chain(mark.si("a"), mark.si("b"), mark.si("c")).apply_async()
    mark.apply_async(("d",), link=mark.si("e"))
    eventually(lambda: all(map(worked.ended, "abcde")) and worked.drained())
    assert [worked.started(name) for name in "abcde"] == [1, 1, 1, 1, 1]


def test_an_eta_beyond_twelve_hours_is_refused_at_publish_with_what_to_do(jobs: Jobs) -> None:
    mark = jobs.app.tasks["mark"]
    with pytest.raises(fifo.EtaTooFarError, match=r"mark\[far\].* 24\.0 hours.*celery beat"):
        mark.apply_async(("a",), task_id="far", countdown=24 * 3600)
    with pytest.raises(fifo.EtaTooFarError):
        mark.apply_async(("a",), eta=datetime.now(UTC) + timedelta(hours=12, minutes=1))
    mark.apply_async(("a",), task_id="near", countdown=12 * 3600 - 60)
    [message] = jobs.received()
    assert envelope(message)["headers"]["id"] == "near"


def test_a_retry_beyond_twelve_hours_is_dead_lettered_not_lost(jobs: Jobs) -> None:
    worker = jobs.start()
    jobs.send("far", "a")
    eventually(lambda: jobs.dead() == 1)
    assert "can hold a task for 12 hours" in log_of(worker)


@pytest.mark.parametrize("task_id", ["spaces in it", "ümlaut", "long" * 50])
def test_a_task_id_that_sqs_does_not_take_is_hashed(worked: Jobs, task_id: str) -> None:
    worked.send("mark", f"id-{len(task_id)}", task_id=task_id)
    eventually(lambda: worked.ended(f"id-{len(task_id)}") and worked.drained())


def test_beat_publishes_with_ids(jobs: Jobs) -> None:
    from celery.beat import ScheduleEntry, Scheduler
    from celery.schedules import schedule

    scheduler = Scheduler(jobs.app, lazy=True)
    entry = ScheduleEntry("each", "mark", schedule=schedule(60), args=["a"], app=jobs.app)
    scheduler.apply_async(entry, advance=False)
    [(name, deduplication)] = ids(jobs)
    assert deduplication == f"{name}:0"
