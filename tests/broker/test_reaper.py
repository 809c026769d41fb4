"""What processes leave behind, and who clears it away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from fleet import SETTINGS, fleet, prefix, queues, subscriptions
from jobs import Jobs

from cis_tasks.broker.owners import SILENT_S, Owner
from cis_tasks.broker.reaper import reap_of
from cis_tasks.local.emulator import Emulator
from support.cloud import eventually

NO_PID = 2**22 + 1  # beyond Linux's largest


@pytest.fixture
def jobs(emulator: Emulator, tmp_path: Path) -> Iterator[Jobs]:
    with fleet(emulator, tmp_path) as made:
        yield made


def leave(jobs: Jobs, name: str, owner: Owner, installation: str | None = None) -> str:
    """A queue of the fleet's as ``owner`` would have left it; its URL."""
    tags = owner.tags(prefix(jobs) if installation is None else installation)
    tags["cis-tasks:seen"] = str(int(owner.seen_s))
    made = boto3.client("sqs").create_queue(QueueName=f"{prefix(jobs)}{name}", tags=tags)
    return str(made["QueueUrl"])


def test_the_next_worker_clears_away_what_a_killed_one_left(jobs: Jobs) -> None:
    worker = jobs.start(**SETTINGS)
    [left] = queues(jobs, "w1_")
    worker.kill()
    assert queues(jobs, "w1_") == [left]

    jobs.start(**SETTINGS)

    eventually(lambda: left not in queues(jobs))
    assert left.rpartition("/")[2] not in subscriptions(jobs)
    assert len(queues(jobs, "w2_")) == len(subscriptions(jobs)) == 1


def test_a_process_of_this_host_is_gone_when_its_pid_is(jobs: Jobs) -> None:
    me = Owner.this()
    mine = leave(jobs, "mine", me)
    dead = leave(jobs, "dead", replace(me, pid=NO_PID))
    reused = leave(jobs, "reused", replace(me, started="1"))

    assert sorted(reap_of(jobs.app)) == sorted(url.rpartition("/")[2] for url in (dead, reused))
    assert queues(jobs) == [mine]


def test_a_process_of_another_host_is_gone_when_it_has_long_been_silent(jobs: Jobs) -> None:
    other = replace(Owner.this(), host="elsewhere", pid=NO_PID)
    silent = leave(jobs, "silent", replace(other, seen_s=time.time() - SILENT_S - 60))
    leave(jobs, "quiet", replace(other, seen_s=time.time() - SILENT_S + 60))

    assert reap_of(jobs.app) == [silent.rpartition("/")[2]]


def test_what_is_somebody_elses_is_left_alone(jobs: Jobs) -> None:
    dead = replace(Owner.this(), pid=NO_PID)
    leave(jobs, "and-more-of-another-installation", dead, f"{prefix(jobs)}and-more-")
    boto3.client("sqs").create_queue(QueueName=f"{prefix(jobs)}without-tags")

    assert reap_of(jobs.app) == []
    assert len(queues(jobs)) == 2
