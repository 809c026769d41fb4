"""Deletes share calls, are made again after errors, and are all made before a worker ends."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from faults import Faulty, faulty
from jobs import Jobs, MakeJobs, log_of

from cis_tasks.local.emulator import Emulator
from support.cloud import eventually

FAILED = json.dumps(
    {
        "Successful": [],
        "Failed": [{"Id": "0", "SenderFault": False, "Code": "InternalError", "Message": "Not."}],
    }
)

FAULTS = {"error": "500", "drop": "drop", "lost": "lost", "entry": FAILED}


@pytest.fixture
def endpoint(emulator: Emulator) -> Iterator[Faulty]:
    with faulty(emulator.endpoint) as running:
        yield running


def test_a_delete_that_fails_is_made_again_while_the_message_stays_hidden(
    make_jobs: MakeJobs, endpoint: Faulty
) -> None:
    jobs = make_jobs(visibility_s=2)
    jobs.start(environ={"AWS_ENDPOINT_URL": endpoint.url})
    for name, fault in FAULTS.items():
        endpoint.fault = lambda operation, fault=fault: (
            fault if operation == "DeleteMessageBatch" else None
        )
        before = endpoint.calls["DeleteMessageBatch"]
        jobs.send("mark", name)
        eventually(
            lambda before=before: (  # longer than its visibility
                endpoint.calls["DeleteMessageBatch"] >= before + 6
            )
        )
        endpoint.fault = lambda _operation: None
        eventually(jobs.drained)
        assert jobs.started(name) == 1


def test_a_worker_deletes_what_it_has_done_before_it_ends(
    make_jobs: MakeJobs, endpoint: Faulty
) -> None:
    jobs = make_jobs(visibility_s=60)
    worker = jobs.start("--prefetch-multiplier", "8", environ={"AWS_ENDPOINT_URL": endpoint.url})
    endpoint.fault = lambda operation: "500" if operation == "DeleteMessageBatch" else None
    for name in "abcd":
        jobs.send("mark", name)
    eventually(lambda: all(map(jobs.ended, "abcd")))
    worker.terminate()
    eventually(lambda: "Warm shutdown" in log_of(worker))
    endpoint.fault = lambda _operation: None
    eventually(lambda: worker.exit_code is not None)
    assert jobs.drained()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_acks_early_delete_before_the_job_has_ended(jobs: Jobs, pool: str) -> None:
    jobs.start("--pool", pool, task_acks_late=False)
    jobs.send("hold", "a")
    eventually(lambda: jobs.started("a") and jobs.drained())
    assert not jobs.ended("a")
