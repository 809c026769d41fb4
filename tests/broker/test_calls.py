"""What a process costs is counted."""

from __future__ import annotations

from jobs import Jobs, log_of

from cis_tasks.broker import calls
from support.cloud import eventually


def test_each_kind_of_call_is_counted(jobs: Jobs) -> None:
    calls.reset()
    for name in "abc":
        jobs.send("mark", name)
    assert calls.made()["sqs.SendMessage"] == 3


def test_a_worker_says_at_its_end_what_it_cost(jobs: Jobs) -> None:
    worker = jobs.start()
    jobs.send("mark", "a")
    eventually(lambda: jobs.ended("a") and jobs.drained())
    worker.terminate()
    eventually(lambda: worker.exit_code is not None)
    [line] = [line for line in log_of(worker).splitlines() if "AWS calls" in line]
    assert "sqs.DeleteMessageBatch 1" in line
    assert "sqs.ReceiveMessage" in line
