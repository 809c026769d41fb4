"""One system under measurement: its worker in full swing, and one client that waits."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker_peers.emulator import Counts, Emulator
from broker_peers.processes import cpu_s, machine_cpu_s
from broker_peers.systems import ROOT, System
from cis_tasks.local.process import Process

WARM_UP_JOBS = 60  # before a worker is looked at
TAIL_JOBS = 160  # left when looking ends
LOOK_EVERY_S = 0.05
START_TIMEOUT_S = 60
CLIENT_TIMEOUT_S = 120


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        rounds: over all systems.
        jobs: looked at, per system and round.
        longest_s: how long to look at most.
        latency_s: how long one client calls.
    """

    rounds: int
    jobs: int
    longest_s: float
    latency_s: float


@dataclass(frozen=True)
class Look:
    """A worker at one moment, and seconds of CPU until then."""

    at_s: float
    worker_s: float
    others_s: float
    counts: Counts


@dataclass(frozen=True)
class Load:
    """A worker in full swing.

    Attributes:
        jobs: how many it did meanwhile.
        jobs_per_s: of it and the emulator together.
        cpu_ms: of all its processes, per job.
        calls: kind of call → per job, the publisher's included.
        others_cores: how many cores others kept busy meanwhile: noise.
    """

    jobs: int
    jobs_per_s: float
    cpu_ms: float
    calls: Mapping[str, float]
    others_cores: float


@dataclass(frozen=True)
class Measured:
    """One round of one system.

    Attributes:
        load: its worker in full swing.
        latencies_s: seconds from submitting a job to having its result, one job at a time;
            none where it has no results.
    """

    load: Load
    latencies_s: list[float]


class BenchmarkError(RuntimeError):
    """A system could not be measured."""


class Bench:
    """One system's worker and clients, with a queue and a bucket of their own."""

    def __init__(self, system: System, server: Emulator, folder: Path) -> None:
        self._system = system
        self._server = server
        self._folder = folder
        name = f"bench-{uuid.uuid4().hex[:10]}"
        server.client("s3").create_bucket(Bucket=name)
        queue = f"{name}.fifo" if system.fifo else name
        url = "" if system.makes_queue else _create_queue(server, queue)
        own = system.requirements is None
        self._environment = {
            **server.environment,
            **system.settings,
            "BENCH_QUEUE": queue,
            "BENCH_QUEUE_URL": url,
            "BENCH_BUCKET": name,
            "PYTHONPATH": f"{ROOT}:{system.folder}" if own else str(system.folder),
            "PYTHONWARNINGS": "ignore",
        }
        self._programs = system.programs()

    def run(self, size: Size) -> Measured:
        """Measure the worker on a full queue, then a client that waits.

        Raises:
            BenchmarkError: the worker or a client failed.
        """
        published = WARM_UP_JOBS + size.jobs + TAIL_JOBS
        before = self._server.counts()
        self._client("publish", str(published))
        after = self._server.counts()
        with self._worker() as worker:
            first = self._look(worker, after.deleted + WARM_UP_JOBS, START_TIMEOUT_S)
            last = self._look(worker, first.counts.deleted + size.jobs, size.longest_s)
            latencies_s = self._latencies_s(size) if self._system.results else []
        sent = _calls_between(before, after, published)
        return Measured(_load_between(first, last, sent), latencies_s)

    def _latencies_s(self, size: Size) -> list[float]:
        out = self._client("latency", str(size.latency_s))
        took: list[float] = json.loads(out.splitlines()[-1])
        return took

    def _look(self, worker: Process, deleted: int, timeout_s: float) -> Look:
        """The worker once so many messages are deleted, or at the end of the time."""
        deadline = time.monotonic() + timeout_s
        while (counts := self._server.counts()).deleted < deleted and time.monotonic() < deadline:
            if not worker.running:
                raise BenchmarkError(f"The worker ended:\n{worker.log_tail()}")
            time.sleep(LOOK_EVERY_S)
        at_s, worker_s = time.perf_counter(), cpu_s(worker.pid)  # right after the counts
        others_s = machine_cpu_s() - worker_s - cpu_s(self._server.pid)
        return Look(at_s, worker_s, others_s, counts)

    @contextmanager
    def _worker(self) -> Iterator[Process]:
        program, *rest = self._system.worker
        process = Process(
            [str(self._programs / "python"), str(self._programs / program), *rest],
            log=self._folder / f"{self._system.name}.log",
            env=self._environment,
            cwd=self._system.folder,
        )
        try:
            yield process
        finally:
            process.kill()

    def _client(self, *command: str) -> str:
        script = self._system.folder / f"{self._system.app}.py"
        try:
            return subprocess.run(
                [str(self._programs / "python"), str(script), *command],
                env=self._environment,
                cwd=self._system.folder,
                capture_output=True,
                text=True,
                check=True,
                timeout=CLIENT_TIMEOUT_S,
            ).stdout
        except subprocess.CalledProcessError as error:
            raise BenchmarkError(f"Its client failed:\n{error.stderr[-2000:]}") from error
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"Its client took more than {CLIENT_TIMEOUT_S} s") from error


def _create_queue(server: Emulator, name: str) -> str:
    url: str = server.client("sqs").create_queue(
        QueueName=name, Attributes={"FifoQueue": "true"} if name.endswith(".fifo") else {}
    )["QueueUrl"]
    return url


def _calls_between(first: Counts, last: Counts, jobs: int) -> dict[str, float]:
    return {
        kind: (number - first.calls.get(kind, 0)) / jobs
        for kind, number in last.calls.items()
        if number > first.calls.get(kind, 0)
    }


def _load_between(first: Look, last: Look, sent: Mapping[str, float]) -> Load:
    jobs = last.counts.deleted - first.counts.deleted
    if not jobs:
        raise BenchmarkError("The worker did no job while it was looked at")
    took_s = last.at_s - first.at_s
    worked = _calls_between(first.counts, last.counts, jobs)
    return Load(
        jobs=jobs,
        jobs_per_s=jobs / took_s,
        cpu_ms=1e3 * (last.worker_s - first.worker_s) / jobs,
        calls={kind: sent.get(kind, 0) + worked.get(kind, 0) for kind in {**sent, **worked}},
        others_cores=max(0.0, last.others_s - first.others_s) / took_s,
    )
