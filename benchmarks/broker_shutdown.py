"""How soon others can have the jobs that a worker held and had not started when it was told to end.

A worker of one process or thread holds four jobs, of which one runs. Then it is asked to end:
warm (SIGTERM), cold (SIGQUIT), or soft (SIGQUIT with ``worker_soft_shutdown_timeout``). The time is
from the signal until SQS shows three messages as visible; the visibility timeout is a minute, so
that none comes back by itself.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker_peers.emulator import Emulator, EmulatorError, emulator
from broker_peers.systems import HERE, ROOT
from reporting import Goal, arguments, report

from cis_tasks.local.process import Process

HELD, WAITING = 4, 3
VISIBILITY_S = 60
GOAL_S = 2.0
PATIENCE_S = 60.0
ATTRIBUTES = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]


@dataclass(frozen=True)
class End:
    """A way to end.

    Attributes:
        name: what it is called.
        pool: of the worker.
        signal: that asks for it.
        soft_s: ``worker_soft_shutdown_timeout``.
    """

    name: str
    pool: str
    signal: signal.Signals
    soft_s: float = 0.0


ENDS = [
    *(End("warm", pool, signal.SIGTERM) for pool in ("prefork", "threads", "solo")),
    End("cold", "prefork", signal.SIGQUIT),
    End("soft", "prefork", signal.SIGQUIT, soft_s=20.0),
]


class ShutdownError(RuntimeError):
    """It could not be measured."""


def measure(end: End, server: Emulator, folder: Path, number: int) -> float:
    """Seconds from the signal until the jobs that wait are visible.

    Raises:
        ShutdownError: something did not happen in time.
    """
    sqs, name = server.client("sqs"), f"jobs-{number}.fifo"
    attributes = {"FifoQueue": "true", "VisibilityTimeout": str(VISIBILITY_S)}
    url = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    starts = folder / f"starts-{number}"
    starts.touch()
    settings = {
        **server.environment,
        "PYTHONPATH": f"{ROOT}:{HERE}",
        "SOAK_QUEUE": name,
        "SOAK_QUEUE_URL": url,
        "SOAK_BUCKET": "none",
        "SOAK_STARTS": str(starts),
        "SOAK_PAUSE_S": "600",
        "SOAK_SOFT_S": str(end.soft_s),
    }

    def counts() -> tuple[int, int]:
        told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=ATTRIBUTES)["Attributes"]
        return int(told[ATTRIBUTES[0]]), int(told[ATTRIBUTES[1]])

    subprocess.run(
        [sys.executable, "-m", "soak_app", str(HELD)], cwd=HERE, env=settings, check=True
    )
    with worker(end, settings, folder / f"worker-{number}.log") as process:
        wait_for(lambda: counts() == (0, HELD) and bool(starts.read_text()), "jobs are held")
        asked_s = time.monotonic()
        os.kill(process.pid, end.signal)
        wait_for(lambda: counts()[0] >= WAITING, "jobs are visible")
        return time.monotonic() - asked_s


@contextmanager
def worker(end: End, settings: dict[str, str], log: Path) -> Iterator[Process]:
    """A worker, for the time of the block."""
    options = ("-P", end.pool, "-c", "1", "--prefetch-multiplier", str(HELD), "-l", "WARNING")
    command = [sys.executable, "-m", "celery", "-A", "soak_app", "worker", *options]
    process = Process(command, log=log, env=settings, cwd=HERE)
    try:
        yield process
    finally:
        process.kill()


def wait_for(look: Callable[[], bool], what: str) -> None:
    """Look until it is so.

    Raises:
        ShutdownError: it is not so in time.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not look():
        if time.monotonic() > deadline_s:
            raise ShutdownError(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.02)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="repetitions; the slowest is judged")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.quick else 3)
    found: dict[str, list[float]] = {}
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            with emulator(folder) as server:
                for number in range(rounds * len(ENDS)):
                    end = ENDS[number % len(ENDS)]
                    seconds = measure(end, server, folder, number)
                    found.setdefault(f"{end.name}, {end.pool}", []).append(seconds)
    except (EmulatorError, ShutdownError) as error:
        print(error, file=sys.stderr)
        return 1
    report(
        f"Until the jobs of a worker that ends are visible to others; {rounds} round(s)",
        ["end", "median s", "slowest s"],
        [[name, f"{statistics.median(s):.2f}", f"{max(s):.2f}"] for name, s in found.items()],
        figures={"seconds": found},
        goals=[Goal.at_most(f"{name}, slowest, s", max(s), GOAL_S) for name, s in found.items()],
        as_json=given.as_json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
