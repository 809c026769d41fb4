"""A message belongs to one worker from receipt until it is settled."""

from __future__ import annotations

import time

import boto3
import pytest
from botocore.config import Config
from faults import faulty
from jobs import VISIBILITY_S, Jobs, MakeJobs, log_of, quit_

from cis_tasks.broker import flush, leases
from cis_tasks.broker.bulk import batched
from cis_tasks.broker.flush import JobQueue
from cis_tasks.local.emulator import Emulator
from support.cloud import eventually

POOLS = ("prefork", "threads", "solo")


@pytest.mark.parametrize("pool", POOLS)
def test_jobs_longer_than_the_visibility_start_once_prefetched_ones_too(
    jobs: Jobs, pool: str
) -> None:
    names = ("a", "b", "c")
    for name in names:
        jobs.send("mark", name, VISIBILITY_S * 0.5)
    for _ in range(2):  # the second would get what the first lets go
        jobs.start("--pool", pool, "--prefetch-multiplier", "3")
    eventually(lambda: all(jobs.ended(name) for name in names) and jobs.drained())
    assert [jobs.started(name) for name in names] == [1, 1, 1]
    assert jobs.dead() == 0


def test_a_job_that_holds_the_gil_three_times_the_visibility_starts_once_on_prefork(
    make_jobs: MakeJobs,
) -> None:
    jobs = make_jobs(visibility_s=3)
    jobs.send("hold_gil", "a", 9)
    jobs.start("--pool", "prefork")
    jobs.start("--pool", "prefork")
    eventually(lambda: jobs.ended("a") and jobs.drained())
    assert jobs.started("a") == 1


def test_a_job_waiting_for_its_time_is_held_longer_than_the_visibility(jobs: Jobs) -> None:
    jobs.start()
    jobs.start()
    due_s = time.time() + 1.5 * VISIBILITY_S
    jobs.send("mark", "a", countdown=1.5 * VISIBILITY_S)
    eventually(lambda: jobs.ended("a") and jobs.drained())
    assert jobs.started("a") == 1
    assert float(jobs.marks("a")[0][2]) >= due_s - 0.5


def test_a_killed_workers_jobs_go_to_another(jobs: Jobs) -> None:
    first = jobs.start("--prefetch-multiplier", "2")
    jobs.send("hold", "a")
    jobs.send("hold", "b")
    eventually(lambda: jobs.started("a") + jobs.started("b"))
    first.kill()
    jobs.let_go()
    jobs.start()
    eventually(lambda: jobs.ended("a") and jobs.ended("b") and jobs.drained())


@pytest.mark.parametrize("pool", POOLS)
def test_a_warm_shutdown_gives_unstarted_jobs_to_others_and_finishes_the_running_one(
    make_jobs: MakeJobs, pool: str
) -> None:
    jobs = make_jobs(visibility_s=60)
    for name in "abcd":
        jobs.send("hold", name)
    first = jobs.start("--pool", pool, "--prefetch-multiplier", "4")
    eventually(lambda: jobs.counts() == (0, 4) and any(map(jobs.started, "abcd")))
    first.terminate()
    eventually(lambda: jobs.counts() == (3, 1), timeout_s=20)
    jobs.let_go()
    eventually(lambda: first.exit_code is not None)
    assert first.exit_code == 0
    assert jobs.counts() == (3, 0)
    jobs.start("--pool", pool, "--prefetch-multiplier", "4")
    eventually(lambda: all(map(jobs.ended, "abcd")) and jobs.drained())
    assert [jobs.started(name) for name in "abcd"] == [1, 1, 1, 1]


@pytest.mark.parametrize("soft_s", [0, 20])
def test_a_cold_or_soft_shutdown_gives_unstarted_jobs_to_others(
    make_jobs: MakeJobs, soft_s: int
) -> None:
    jobs = make_jobs(visibility_s=60)
    for name in "abcd":
        jobs.send("mark", name, 30 if soft_s == 0 else 4)
    first = jobs.start("--prefetch-multiplier", "4", worker_soft_shutdown_timeout=soft_s)
    eventually(lambda: jobs.counts() == (0, 4) and any(map(jobs.started, "abcd")))
    quit_(first)
    eventually(lambda: jobs.counts()[0] >= 3, timeout_s=20)
    if not soft_s:
        eventually(lambda: first.exit_code is not None)
        eventually(lambda: jobs.counts() == (4, 0), timeout_s=20)


def test_the_leases_of_prefetched_jobs_share_calls(make_jobs: MakeJobs, emulator: Emulator) -> None:
    jobs = make_jobs(visibility_s=3)
    names = "abcdefgh"
    with batched():
        for name in names:
            jobs.send("hold", name)
    with faulty(emulator.endpoint) as endpoint:
        jobs.start("--prefetch-multiplier", "8", environ={"AWS_ENDPOINT_URL": endpoint.url})
        eventually(lambda: endpoint.calls["ChangeMessageVisibilityBatch"] >= 4)
        assert jobs.counts() == (0, 8)
        assert endpoint.calls["ChangeMessageVisibility"] == 0
        extended = endpoint.entries["ChangeMessageVisibilityBatch"]
        assert extended >= 6 * endpoint.calls["ChangeMessageVisibilityBatch"]
    assert sum(map(jobs.started, names)) == 1


def test_what_is_said_of_a_delete_whose_answers_are_lost_is_true(
    make_jobs: MakeJobs,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = make_jobs(visibility_s=60)
    monkeypatch.setattr(flush, "MAX_ATTEMPTS", 2)
    caplog.set_level("WARNING", logger="cis_tasks")
    jobs.send("mark", "a")
    [message] = jobs.received()
    with faulty(emulator.endpoint) as endpoint:
        endpoint.fault = lambda _operation: "lost"
        once = Config(retries={"total_max_attempts": 1})
        client = boto3.client("sqs", endpoint_url=endpoint.url, config=once)
        held, queue = leases.Leases(), JobQueue("jobs", jobs.url, client, visibility_s=60)
        held.add(queue, [message])
        held.delete(message["ReceiptHandle"])
        assert held.flush(60)
        held.close(5)
    assert jobs.drained()
    assert "SQS did not confirm" in caplog.text
    assert "it may run again" in caplog.text


def test_a_lost_lease_is_logged_with_its_job_and_let_go(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(visibility_s=3)
    worker = jobs.start()
    task = jobs.send("hold", "a")
    eventually(lambda: jobs.started("a"))
    jobs.sqs.purge_queue(QueueUrl=jobs.url)  # now its handle is worth nothing
    eventually(lambda: "Lost the lease" in log_of(worker))
    [line] = [line for line in log_of(worker).splitlines() if "Lost the lease" in line]
    assert f"hold[{task}]" in line
    jobs.let_go()
    eventually(lambda: jobs.ended("a"))
    jobs.send("mark", "b")  # and the worker goes on
    eventually(lambda: jobs.ended("b") and jobs.drained())
    worker.terminate()
    eventually(lambda: worker.exit_code is not None)
    assert log_of(worker).count("Lost the lease") == 1
    # AWS refuses a lost message's handle, emulators delete whoever's message it is now: only the
    # second job's delete is sent.
    assert "sqs.DeleteMessageBatch 1," in log_of(worker)


def test_nothing_is_held_longer_than_sqs_allows(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leases, "MAX_HELD_S", 3)  # 12 hours
    task = jobs.send("mark", "a")
    held, queue = leases.Leases(), JobQueue("jobs", jobs.url, jobs.sqs, visibility_s=2)
    [message] = jobs.received()
    jobs.sqs.change_message_visibility(
        QueueUrl=jobs.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=2
    )
    held.add(queue, [message])
    assert held.give(message["ReceiptHandle"], f"mark[{task}]")
    assert jobs.counts() == (0, 1)
    eventually(lambda: jobs.counts() == (1, 0))
    eventually(lambda: f"Lost the lease of mark[{task}]" in caplog.text)
    assert "12 hours" in caplog.text
    held.close(5)


def test_a_message_that_comes_after_the_end_is_given_back_at_once(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(visibility_s=60)
    held, queue = leases.Leases(), JobQueue("jobs", jobs.url, jobs.sqs, visibility_s=60)
    held.close(5)
    jobs.send("mark", "a")
    held.add(queue, jobs.received())
    assert jobs.counts() == (1, 0)


def test_a_client_that_closes_its_channel_gives_back_what_it_did_not_acknowledge(
    make_jobs: MakeJobs,
) -> None:
    jobs = make_jobs(visibility_s=60)
    jobs.send("mark", "a")
    jobs.send("mark", "b")
    with jobs.app.connection_for_read() as connection:
        channel = connection.channel()
        channel.basic_get(jobs.name).ack()
        assert channel.basic_get(jobs.name) is not None
        channel.close()
    assert jobs.counts() == (1, 0)
