"""What a job costs that does nothing: our broker layer beside what else there is for SQS.

Stock Celery with kombu, dramatiq-sqs, taskiq-aio-sqs and ours take turns on one emulator, each
with fresh queues, one process and eight jobs at a time, every job a FIFO group of its own
(dramatiq-sqs knows standard queues alone). A worker is started on a full queue and looked at
while it is in full swing, so that neither its start nor its end counts: jobs per second, CPU of
all its processes, and calls as the emulator counts them, with those of the publisher. Then one
client waits for one job at a time. Rounds are repeated, medians reported.

In the table, CPU ms and calls are per job; sends, receives, deletes and the rest stand apart.
"p50 p95 ms" are from submitting a job to having its result (dramatiq keeps none on AWS), "noise"
is how many cores others kept busy. The emulator is one process of Python and shares the cores
with the worker: jobs per second are of the pair, CPU and calls say more. What is sent wakes its
long polls, as on AWS; ministack's own look ten times a second (--emulator-as-it-is), which adds
some 50 ms to each way.

"Celery tuned" is stock with kombu's polling_interval and the interval of get() at 0.05 s.
dramatiq and taskiq run in environments of their own in .cis/bench-envs, installed on first use.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from broker_peers.emulator import Emulator, EmulatorError, emulator
from broker_peers.measuring import Bench, BenchmarkError, Load, Size
from broker_peers.systems import SLOTS, System, UnavailableError, systems
from reporting import Goal, arguments, report

QUICK = Size(rounds=1, jobs=800, longest_s=4.0, latency_s=1.0)
FULL = Size(rounds=3, jobs=2000, longest_s=30.0, latency_s=8.0)

CPU_RATIO = 0.5
CALLS = 0.45
P50_MS = 50.0
JOBS_RATIO = 1.5
KINDS = ("sqs.SendMessage", "sqs.ReceiveMessage", "sqs.DeleteMessage")
COLUMNS = [
    "system",
    "jobs/s",
    "CPU ms",
    "calls",
    "send recv del rest",
    "p50 p95 ms",
    "noise",
]


@dataclass
class Found:
    """What was measured of one system.

    Attributes:
        loads: one per round.
        latencies_s: of all rounds.
        problem: why it was not measured, or not in every round.
    """

    loads: list[Load] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    problem: str = ""


def measure(size: Size, compared: Sequence[System], server: Emulator) -> dict[str, Found]:
    """System → what was measured, the systems taking turns."""
    found = {system.name: Found() for system in compared}
    here = [system for system in compared if _is_here(system, found[system.name])]
    for _ in range(size.rounds):
        for system in here:
            one = found[system.name]
            with tempfile.TemporaryDirectory() as folder:
                try:
                    measured = Bench(system, server, Path(folder)).run(size)
                except BenchmarkError as error:
                    one.problem = str(error)
                    continue
            one.loads.append(measured.load)
            one.latencies_s += measured.latencies_s
    return found


def _is_here(system: System, found: Found) -> bool:
    try:
        system.programs()
    except UnavailableError as error:
        found.problem = f"not measured: {error}"
        return False
    return True


def figures_of(found: Found) -> dict[str, Any]:
    """Medians over the rounds; only the problem where nothing was measured."""
    figures: dict[str, Any] = {"problem": found.problem} if found.problem else {}
    if found.loads:
        kinds = sorted({kind for load in found.loads for kind in load.calls})
        calls = {
            kind: statistics.median(load.calls.get(kind, 0) for load in found.loads)
            for kind in kinds
        }
        figures |= {
            "jobs_per_s": statistics.median(load.jobs_per_s for load in found.loads),
            "cpu_ms": statistics.median(load.cpu_ms for load in found.loads),
            "calls": statistics.median(sum(load.calls.values()) for load in found.loads),
            "calls_by_kind": calls,
            "others_cores": statistics.median(load.others_cores for load in found.loads),
            "rounds": [asdict(load) for load in found.loads],
        }
    if found.latencies_s:
        percentiles = statistics.quantiles(found.latencies_s, n=20, method="inclusive")
        figures |= {"p50_ms": 1e3 * percentiles[9], "p95_ms": 1e3 * percentiles[18]}
    return figures


def goals_of(figures: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """Ours against the best of the others."""
    ours = figures["ours"]
    others = [figure for name, figure in figures.items() if name != "ours"]
    best_cpu_ms = min((one["cpu_ms"] for one in others if "cpu_ms" in one), default=None)
    best_jobs_per_s = max(
        (one["jobs_per_s"] for one in others if "jobs_per_s" in one), default=None
    )
    goals = []
    if "calls" in ours:
        goals.append(Goal.at_most("AWS calls per job", ours["calls"], CALLS))
        if best_cpu_ms and best_jobs_per_s:
            cpu, jobs = ours["cpu_ms"] / best_cpu_ms, ours["jobs_per_s"] / best_jobs_per_s
            goals.append(Goal.at_most("CPU per job, ours / best other", cpu, CPU_RATIO))
            goals.append(Goal("jobs/s, ours / best other", jobs, JOBS_RATIO, jobs >= JOBS_RATIO))
    if "p50_ms" in ours:
        goals.append(Goal.at_most("submit to get, p50 ms", ours["p50_ms"], P50_MS))
    return goals


def row_of(name: str, figures: Mapping[str, Any]) -> list[str]:
    """A system's row of the table."""
    if "jobs_per_s" not in figures:
        return [name, "not run"]
    by_kind = [
        sum(number for kind, number in figures["calls_by_kind"].items() if kind.startswith(wanted))
        for wanted in KINDS
    ]
    by_kind.append(figures["calls"] - sum(by_kind))
    return [
        name,
        f"{figures['jobs_per_s']:.0f}",
        f"{figures['cpu_ms']:.2f}",
        f"{figures['calls']:.2f}",
        " ".join(f"{abs(number):.2f}" for number in by_kind),
        f"{figures['p50_ms']:.0f} {figures['p95_ms']:.0f}" if "p50_ms" in figures else "–",
        f"{figures['others_cores']:.1f}",
    ]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument(
        "--pool", choices=("threads", "prefork"), default="threads", help="Celery's, of all rows"
    )
    parser.add_argument("--rounds", type=int, help="repetitions; medians are reported")
    parser.add_argument(
        "--emulator-as-it-is", action="store_true", help="long polls that wake ten times a second"
    )
    parser.add_argument("--only", metavar="TEXT", help="systems with this in their names, and ours")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    if options.rounds:
        size = replace(size, rounds=options.rounds)
    compared = [
        system
        for system in systems(options.pool)
        if not options.only or system.name == "ours" or options.only in system.name
    ]
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            emulator(Path(folder), wakes=not options.emulator_as_it_is) as server,
        ):
            found = measure(size, compared, server)
    except EmulatorError as error:
        print(error, file=sys.stderr)
        return 1
    figures = {name: figures_of(one) for name, one in found.items()}
    report(
        f"Jobs that do nothing: one worker, {SLOTS} at a time ({options.pool} in Celery); "
        f"medians of {size.rounds} round(s)",
        COLUMNS,
        [row_of(name, figure) for name, figure in figures.items()],
        figures={"systems": figures, "pool": options.pool},
        goals=goals_of(figures),
        as_json=options.as_json,
    )
    for name, figure in figures.items():
        if "problem" in figure:
            print(f"{name}: {figure['problem']}", file=sys.stderr)
    return 0 if "jobs_per_s" in figures["ours"] else 1


if __name__ == "__main__":
    sys.exit(main())
