"""Does every job have exactly one effect while workers die and AWS fails?

Three workers take jobs from a FIFO queue. Every few seconds one of them, chosen by lot, is killed
with SIGKILL and replaced, now and then one is stopped with SIGTERM instead, and one call to AWS in
a hundred fails, the publisher's included: with a 503 before or after it took effect, or with no
answer for longer than clients wait. The lots are drawn from seeded generators.

A job notes its start, takes a while and writes an object under the condition that there is none.
The bucket keeps versions, so that a second write would show. The redrive limit is high: a message
in the dead-letter queue was lost by mistake, not by bad luck.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from broker_peers.emulator import Counts, Emulator, EmulatorError, emulator
from broker_peers.systems import HERE, ROOT
from reporting import Goal, arguments, report

from cis_tasks.local.process import Process, stop_all

WORKERS = 3
SLOTS = 2
FAULT_SHARE = 0.01
VISIBILITY_S = 10
REDRIVE_AFTER = 100
TERM_EVERY = 4  # each fourth worker that goes is asked to
GRACE_S = 60.0
LOOK_EVERY_S = 0.5
ATTRIBUTES = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]


class SoakError(RuntimeError):
    """It could not run to its end."""


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        jobs: how many.
        pause_s: how long a job takes on average.
        strike_every_s: how often a worker goes.
        timeout_s: in which all must be done.
        seed: of all lots.
    """

    jobs: int
    pause_s: float
    strike_every_s: float
    timeout_s: float
    seed: int = 1


QUICK = Plan(jobs=300, pause_s=0.2, strike_every_s=4.0, timeout_s=90.0)
FULL = Plan(jobs=10_000, pause_s=0.05, strike_every_s=5.0, timeout_s=1800.0)


@dataclass
class Struck:
    """What became of the workers.

    Attributes:
        killed: with SIGKILL.
        asked: with SIGTERM.
        ended: by themselves.
        exit_codes: of those asked.
    """

    killed: int = 0
    asked: int = 0
    ended: int = 0
    exit_codes: list[int | None] = field(default_factory=list)


@dataclass(frozen=True)
class Queues:
    """The jobs' queue and its dead-letter queue, by URL."""

    jobs: str
    dead: str


@dataclass(frozen=True)
class Outcome:
    """What was found at the end.

    Attributes:
        effects: object → how often it was written.
        starts: job → how often it was started.
        dead_letters: in the dead-letter queue.
        counts: the emulator's.
        struck: the workers'.
        took_s: from the first message to the last.
    """

    effects: Counter[int]
    starts: Counter[int]
    dead_letters: int
    counts: Counts
    struck: Struck
    took_s: float


class Soak:
    """One run on an emulator of its own."""

    def __init__(self, plan: Plan, server: Emulator, folder: Path) -> None:
        self._plan = plan
        self._server = server
        self._folder = folder
        self._starts = folder / "starts"
        self._starts.touch()
        self._bucket = f"soak-{uuid.uuid4().hex[:10]}"
        self._sqs, self._s3 = server.client("sqs"), server.client("s3")
        self._queues = self._make_queues()
        self._s3.create_bucket(Bucket=self._bucket)
        self._s3.put_bucket_versioning(
            Bucket=self._bucket, VersioningConfiguration={"Status": "Enabled"}
        )
        self._random = random.Random(plan.seed)
        self._workers: list[Process] = []
        self._leaving: list[Process] = []
        self._struck = Struck()
        self._started = 0

    def run(self) -> Outcome:
        """Publish, let workers work and die, and look at what came of it.

        Raises:
            SoakError: the publisher failed, or the queue is not empty in time.
        """
        begun_s = time.monotonic()
        self._server.fail(FAULT_SHARE)
        try:
            with self._publisher() as publisher:
                for _ in range(WORKERS):
                    self._start_worker()
                self._strike_until_done(publisher, begun_s + self._plan.timeout_s)
            took_s = time.monotonic() - begun_s
        finally:
            stop_all([*self._workers, *self._leaving], GRACE_S)
        self._server.fail(0)
        self._struck.exit_codes = [process.exit_code for process in self._leaving]
        return Outcome(
            effects=self._effects(),
            starts=Counter(map(int, self._starts.read_text().split())),
            dead_letters=self._depth(self._queues.dead),
            counts=self._server.counts(),
            struck=self._struck,
            took_s=took_s,
        )

    def _strike_until_done(self, publisher: Process, deadline_s: float) -> None:
        strike_at_s = time.monotonic() + self._plan.strike_every_s
        while publisher.running or self._depth(self._queues.jobs):
            now_s = time.monotonic()
            if now_s > deadline_s:
                left = self._depth(self._queues.jobs)
                raise SoakError(f"{left} messages left after {self._plan.timeout_s:.0f} s")
            if now_s >= strike_at_s:
                self._strike()
                strike_at_s = now_s + self._plan.strike_every_s
            self._replace_ended()
            time.sleep(LOOK_EVERY_S)
        if publisher.exit_code:
            raise SoakError(f"The publisher failed:\n{publisher.log_tail()}")

    def _strike(self) -> None:
        worker = self._workers.pop(self._random.randrange(len(self._workers)))
        if (self._struck.killed + self._struck.asked) % TERM_EVERY == 1:
            worker.terminate()
            self._leaving.append(worker)
            self._struck.asked += 1
        else:
            worker.kill()
            self._struck.killed += 1
        self._start_worker()

    def _replace_ended(self) -> None:
        """A worker that ends by itself is replaced too, as systemd does."""
        for worker in [worker for worker in self._workers if not worker.running]:
            self._workers.remove(worker)
            self._struck.ended += 1
            self._start_worker()

    def _start_worker(self) -> None:
        self._started += 1
        options = ("-P", "prefork", "-c", str(SLOTS), "-l", "WARNING")
        self._workers.append(
            self._process("celery", "-A", "soak_app", "worker", *options, "-n", f"w{self._started}")
        )

    @contextmanager
    def _publisher(self) -> Iterator[Process]:
        process = self._process("soak_app", str(self._plan.jobs))
        try:
            yield process
        finally:
            process.kill()

    def _process(self, module: str, *rest: str) -> Process:
        return Process(
            [sys.executable, "-m", module, *rest],
            log=self._folder / f"{module}-{self._started}.log",
            cwd=HERE,
            env={
                **self._server.environment,
                "PYTHONPATH": f"{ROOT}:{HERE}",
                "SOAK_QUEUE": "jobs.fifo",
                "SOAK_QUEUE_URL": self._queues.jobs,
                "SOAK_BUCKET": self._bucket,
                "SOAK_STARTS": str(self._starts),
                "SOAK_PAUSE_S": str(self._plan.pause_s),
            },
        )

    def _make_queues(self) -> Queues:
        fifo = {"FifoQueue": "true"}
        dead = self._sqs.create_queue(QueueName="dead.fifo", Attributes=fifo)["QueueUrl"]
        arn = self._sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])
        redrive = {
            "deadLetterTargetArn": arn["Attributes"]["QueueArn"],
            "maxReceiveCount": REDRIVE_AFTER,
        }
        attributes = {
            **fifo,
            "VisibilityTimeout": str(VISIBILITY_S),
            "RedrivePolicy": json.dumps(redrive),
        }
        jobs = self._sqs.create_queue(QueueName="jobs.fifo", Attributes=attributes)["QueueUrl"]
        return Queues(jobs, dead)

    def _depth(self, url: str) -> int:
        answer = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=ATTRIBUTES)
        return sum(int(answer["Attributes"][name]) for name in ATTRIBUTES)

    def _effects(self) -> Counter[int]:
        pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=self._bucket)
        return Counter(int(one["Key"]) for page in pages for one in page.get("Versions", []))


def goals_of(plan: Plan, outcome: Outcome) -> list[Goal]:
    """What must be so."""
    lost = sum(number not in outcome.effects for number in range(plan.jobs))
    twice = sum(times > 1 for times in outcome.effects.values())
    return [
        Goal.at_most("jobs lost", lost, 0),
        Goal.at_most("jobs with more than one effect", twice, 0),
        Goal.at_most("messages in the dead-letter queue", outcome.dead_letters, 0),
    ]


def figures_of(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """The run in numbers."""
    starts = sum(outcome.starts.values())
    calls = sum(outcome.counts.calls.values())
    return {
        "jobs": plan.jobs,
        "jobs with exactly one effect": sum(times == 1 for times in outcome.effects.values()),
        "starts": starts,
        "starts beyond the first": starts - len(outcome.starts),
        "most starts of one job": max(outcome.starts.values(), default=0),
        "workers killed with SIGKILL": outcome.struck.killed,
        "workers stopped with SIGTERM": outcome.struck.asked,
        "workers ended by themselves": outcome.struck.ended,
        "exit codes after SIGTERM": sorted(set(map(str, outcome.struck.exit_codes))),
        "AWS calls": calls,
        "failures injected": sum(outcome.counts.faults.values()),
        "of them by kind": outcome.counts.faults,
        "seconds": round(outcome.took_s, 1),
    }


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--jobs", type=int, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="of all lots")
    parser.add_argument("--logs", type=Path, help="an empty folder for the logs of all processes")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    plan = replace(plan, seed=options.seed, jobs=options.jobs or plan.jobs)
    try:
        with (
            tempfile.TemporaryDirectory() as temporary,
            emulator(folder := options.logs or Path(temporary), fault_seed=plan.seed) as server,
        ):
            outcome = Soak(plan, server, folder).run()
    except (EmulatorError, SoakError) as error:
        print(error, file=sys.stderr)
        return 1
    figures = figures_of(plan, outcome)
    report(
        f"{plan.jobs} jobs, {WORKERS} workers, one struck every {plan.strike_every_s:.0f} s, "
        f"{FAULT_SHARE:.0%} of AWS calls failing",
        ["", ""],
        [[name, shown(value)] for name, value in figures.items()],
        figures=figures,
        goals=goals_of(plan, outcome),
        as_json=options.as_json,
    )
    return 0


def shown(value: Any) -> str:
    """A figure for people."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in sorted(value.items()))
    return ", ".join(value) if isinstance(value, list) else f"{value}"


if __name__ == "__main__":
    sys.exit(main())
