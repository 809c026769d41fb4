"""What it costs to carry an image from S3 through SQS to its class in S3.

Ours beside a naive boto3 loop, stock Celery (prefork and threads), dramatiq-sqs and
taskiq-aio-sqs, taking turns on one emulator. All use our decoder and our model on the CPU and one
photograph of 500 pixels, one copy for each job, so that they differ in nothing but how they carry
jobs. Each worker is started on a full queue and looked at in full swing. Ours does more for each
job: it writes the text, the manifest, the pointer to the newest and the Celery result.

"CPU ms" is of all the worker's processes, per job; "× bare" is that beside the decoder and the
model alone, measured before each system on one core. "SQS" and "S3" are calls per job, those of
the publisher included. "twice" is how many jobs ran more than once. The emulator shares the cores
with the workers: jobs per second are of the pair, CPU and calls say more.

dramatiq and taskiq run in environments of their own in .cis/bench-envs, installed on first use.
"""

from __future__ import annotations

import io
import os
import re
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from broker_peers.emulator import Emulator, EmulatorError, emulator
from broker_peers.measuring import Bench, BenchmarkError, Load, Size
from broker_peers.systems import ROOT, System, UnavailableError
from PIL import Image
from reporting import Goal, arguments, report

from cis_tasks.worker.command import AHEAD

HERE = Path(__file__).parent / "image_peers"
QUICK = Size(rounds=1, jobs=150, longest_s=15.0, latency_s=0.0)
FULL = Size(rounds=3, jobs=500, longest_s=60.0, latency_s=0.0)
THREADS = 8
BARE_RUNS = 60
SIDE = 500

CPU_RATIO = 1.15
SQS_CALLS = 0.5
COLUMNS = ["system", "jobs/s", "CPU ms", "× bare", "SQS", "S3", "twice", "noise"]


@dataclass
class Found:
    """What was measured of one system.

    Attributes:
        loads: one per round.
        bare_ms: of the decoder and the model alone, just before each.
        twice: jobs that ran more than once, in all rounds.
        problem: why it was not measured.
    """

    loads: list[Load] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)
    twice: int = 0
    problem: str = ""


class ImageBench(Bench):
    """A system's worker, of which it is told how often it did the same."""

    def twice(self) -> int:
        """Jobs that were run more than once."""
        if self._system.name == "ours":
            log = (self._folder / "ours.log").read_text(errors="replace")
            ended = [line for line in log.splitlines() if "job_ended" in line]
            runs = [found[0] for line in ended if (found := re.findall(r"[0-9a-f-]{36}", line))]
        else:
            s3, bucket = self._server.client("s3"), self._environment["BENCH_BUCKET"]
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="out/")
            listed = [item["Key"] for page in pages for item in page.get("Contents", [])]
            runs = [key.rpartition("/")[0] for key in listed]
        return len(runs) - len(set(runs))


def systems(image: Path) -> list[System]:
    """All of them, ours first."""
    ours = f"{ROOT}:{sysconfig.get_paths()['purelib']}"
    common = {"BENCH_IMAGE": str(image), "BENCH_SITE": ours, "OMP_NUM_THREADS": "1"}
    made = {"folder": HERE, "settings": common, "results": False}
    threads = ("-P", "threads", "-c", str(THREADS), "-l", "WARNING")
    ahead = ("--prefetch-multiplier", str(AHEAD))
    celery = ("celery", "-A")
    return [
        System(
            "ours",
            "ours_app",
            (*celery, "ours_app", "worker", "-Q", "CIS_Image_requests.fifo", *threads, *ahead),
            **made,
        ),
        System("boto3 loop", "naive_app", (str(HERE / "naive_app.py"),), **made),
        System("Celery threads", "stock_app", (*celery, "stock_app", "worker", *threads), **made),
        System(
            "Celery prefork",
            "stock_app",
            (*celery, "stock_app", "worker", "-P", "prefork", "-c", "2", "-l", "WARNING"),
            **made,
        ),
        System(
            "dramatiq-sqs",
            "dramatiq_images",
            ("dramatiq", "-p", "1", "-t", str(THREADS), "dramatiq_images"),
            requirements="dramatiq.txt",
            fifo=False,
            makes_queue=True,
            **made,
        ),
        System(
            "taskiq-aio-sqs",
            "taskiq_images",
            (
                *("taskiq", "worker", "-w", "1", "--max-async-tasks", str(THREADS)),
                *("--log-level", "WARNING", "taskiq_images:broker"),
            ),
            requirements="taskiq.txt",
            **made,
        ),
    ]


def bare_ms(image: Path) -> float:
    """CPU ms of the decoder and the model for one image, on this process's one thread."""
    os.environ.setdefault("BENCH_BUCKET", "")
    sys.path.insert(0, str(HERE))
    import work  # noqa: PLC0415

    body = image.read_bytes()
    for _ in range(5):
        work.look_at(body)
    start = time.process_time()
    for _ in range(BARE_RUNS):
        work.look_at(body)
    return 1e3 * (time.process_time() - start) / BARE_RUNS


def measure(
    size: Size, compared: Sequence[System], server: Emulator, image: Path
) -> dict[str, Found]:
    """System → what was measured, the systems taking turns."""
    found = {system.name: Found() for system in compared}
    for _ in range(size.rounds):
        for system in compared:
            one = found[system.name]
            if one.problem:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    bench = ImageBench(system, server, Path(folder))
                    bare = bare_ms(image)
                    load = bench.run(size).load
                except (BenchmarkError, UnavailableError) as error:
                    one.problem = f"not measured: {error}"
                    continue
                one.loads.append(load)
                one.bare_ms.append((bare + bare_ms(image)) / 2)
                one.twice += bench.twice()
    return found


def figures_of(found: Found) -> dict[str, Any]:
    """Medians over the rounds; only the problem where nothing was measured."""
    if not found.loads:
        return {"problem": found.problem}
    loads = found.loads

    def calls(service: str) -> float:
        return statistics.median(
            sum(number for kind, number in load.calls.items() if kind.startswith(f"{service}."))
            for load in loads
        )

    return {
        "jobs_per_s": statistics.median(load.jobs_per_s for load in loads),
        "cpu_ms": statistics.median(load.cpu_ms for load in loads),
        "bare_ms": statistics.median(found.bare_ms),
        "over_bare": statistics.median(
            load.cpu_ms / bare for load, bare in zip(loads, found.bare_ms, strict=True)
        ),
        "sqs_calls": calls("sqs"),
        "s3_calls": calls("s3"),
        "calls_by_kind": loads[-1].calls,
        "twice": found.twice,
        "others_cores": statistics.median(load.others_cores for load in loads),
    }


def goals_of(figures: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """Ours against the bare model and the best of the others."""
    ours = figures["ours"]
    if "jobs_per_s" not in ours:
        return []
    others = [one for name, one in figures.items() if name != "ours" and "jobs_per_s" in one]
    goals = [
        Goal.at_most("CPU per job / decoder and model alone", ours["over_bare"], CPU_RATIO),
        Goal.at_most("SQS calls per job", ours["sqs_calls"], SQS_CALLS),
        Goal.at_most("jobs that ran twice", ours["twice"], 0),
    ]
    if others:
        ratio = ours["jobs_per_s"] / max(one["jobs_per_s"] for one in others)
        goals.append(Goal("jobs/s, ours / best other", ratio, 1.0, ratio > 1))
        cpu = ours["cpu_ms"] / min(one["cpu_ms"] for one in others)
        goals.append(Goal.at_most("CPU per job, ours / best other", cpu, 1.0))
    return goals


def row_of(name: str, one: Mapping[str, Any]) -> list[str]:
    """A system's row of the table."""
    if "jobs_per_s" not in one:
        return [name, "not run"]
    return [
        name,
        f"{one['jobs_per_s']:.1f}",
        f"{one['cpu_ms']:.1f}",
        f"{one['over_bare']:.2f}",
        f"{one['sqs_calls']:.2f}",
        f"{one['s3_calls']:.2f}",
        f"{one['twice']}",
        f"{one['others_cores']:.1f}",
    ]


def photograph(folder: Path) -> Path:
    """A JPEG of a photograph that ships in scikit-image."""
    import skimage  # noqa: PLC0415

    out = io.BytesIO()
    with Image.open(Path(skimage.__file__).parent / "data/coffee.png") as image:
        height = round(image.height * SIDE / image.width)
        image.convert("RGB").resize((SIDE, height)).save(out, "JPEG", quality=90)
    path = folder / "coffee.jpg"
    path.write_bytes(out.getvalue())
    return path


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="repetitions; medians are reported")
    parser.add_argument("--only", metavar="TEXT", help="systems with this in their names, and ours")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    if options.rounds:
        size = replace(size, rounds=options.rounds)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            emulator(Path(folder)) as server,
        ):
            image = photograph(Path(folder))
            compared = [
                system
                for system in systems(image)
                if not options.only or system.name == "ours" or options.only in system.name
            ]
            found = measure(size, compared, server, image)
    except EmulatorError as error:
        print(error, file=sys.stderr)
        return 1
    figures = {name: figures_of(one) for name, one in found.items()}
    report(
        f"Images from S3 to S3 on the CPU: one worker; medians of {size.rounds} round(s)",
        COLUMNS,
        [row_of(name, one) for name, one in figures.items()],
        figures={"systems": figures},
        goals=goals_of(figures),
        as_json=options.as_json,
    )
    for name, one in figures.items():
        if "problem" in one:
            print(f"{name}: {one['problem']}", file=sys.stderr)
    return 0 if "jobs_per_s" in figures["ours"] else 1


if __name__ == "__main__":
    sys.exit(main())
