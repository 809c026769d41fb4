"""A worker that is told to end keeps nothing from the others, not even what comes to it then."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from faults import Faulty, faulty
from jobs import Jobs, MakeJobs, log_of

from cis_tasks.local.emulator import Emulator
from cis_tasks.local.workers import Worker
from support.cloud import eventually

LONG_S = 600  # a visibility timeout that no test outlasts: what is visible was given back


@pytest.fixture
def endpoint(emulator: Emulator) -> Iterator[Faulty]:
    """Goes on with a poll whose caller has gone, as AWS does; emulators need not."""
    with faulty(emulator.endpoint) as running:
        yield running


def start_polling(jobs: Jobs, endpoint: Faulty, *options: str, **settings: Any) -> Worker:
    """A worker whose long poll is open."""
    before = endpoint.calls["ReceiveMessage"]
    worker = jobs.start(*options, environ={"AWS_ENDPOINT_URL": endpoint.url}, **settings)
    eventually(lambda: endpoint.calls["ReceiveMessage"] > before)
    return worker


@pytest.mark.parametrize(
    ("pool", "signum", "soft_s"),
    [
        ("prefork", signal.SIGTERM, 0),
        ("prefork", signal.SIGQUIT, 0),
        ("prefork", signal.SIGQUIT, 1),
        ("threads", signal.SIGTERM, 0),
        ("solo", signal.SIGTERM, 0),
    ],
    ids=["warm", "cold", "soft", "threads", "solo"],
)
def test_what_sqs_hands_to_the_last_long_poll_is_given_back(
    make_jobs: MakeJobs, endpoint: Faulty, pool: str, signum: int, soft_s: int
) -> None:
    jobs = make_jobs(visibility_s=LONG_S)
    worker = start_polling(
        jobs,
        endpoint,
        *("--pool", pool),
        broker_transport_options={"wait_time_seconds": 20},
        worker_soft_shutdown_timeout=soft_s,
    )
    os.kill(worker.pid, signum)
    eventually(lambda: "Waiting for the open receive" in log_of(worker))

    jobs.send("mark", "late")

    eventually(lambda: worker.exit_code is not None)
    assert jobs.counts() == (1, 0)
    [message] = jobs.received()
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"  # the worker's, and ours


def test_what_is_sent_once_a_worker_has_ended_goes_to_another(
    make_jobs: MakeJobs, endpoint: Faulty
) -> None:
    jobs = make_jobs(visibility_s=LONG_S)
    worker = start_polling(jobs, endpoint, broker_transport_options={"wait_time_seconds": 5})
    worker.terminate()
    eventually(lambda: worker.exit_code is not None)

    jobs.send("mark", "late")
    jobs.start()

    eventually(lambda: jobs.ended("late") and jobs.drained())


def test_an_endpoint_that_never_answers_holds_no_worker_for_good(
    jobs: Jobs, endpoint: Faulty
) -> None:
    endpoint.fault = lambda operation: "hang" if operation == "ReceiveMessage" else None
    worker = start_polling(jobs, endpoint, broker_transport_options={"wait_time_seconds": 0})
    worker.terminate()
    eventually(lambda: worker.exit_code is not None)
    assert "The last receive" in log_of(worker)
