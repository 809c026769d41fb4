"""What a cold start costs in imports: our Lambda handler beside two that import Celery.

One is our handler again, publishing the same job with ``calibrate_spine.apply_async``; the other
is the leanest that Celery allows, without a join or a job: an empty app and ``send_task``.

Celery and botocore import much of themselves only when they are first used, so each handler is
first run up to its first message, on an AWS that is not there, and what it has imported by then
is what it is charged with. Each timing is a new interpreter that imports just that; the handlers
take turns, so that all see the same machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from reporting import Goal, arguments, report

from lambda_trigger.package import build

GOAL_RATIO = 0.6

OURS = """
import lambda_trigger.handler as trigger
from cis_tasks.jobs import Job

def publish():
    trigger._s3()
    trigger.publish_many(trigger._sqs(), trigger._queue_urls(), [Job("spine", "1", "a", {})])
"""

SAME_WITH_CELERY = """
import lambda_trigger.handler as trigger
from cis_tasks.jobs import Job
from cis_tasks.publish import message_kwargs
from cis_tasks.tasks import calibrate_spine

def publish():
    trigger._s3()
    job = Job("spine", "1", "a", {})
    calibrate_spine.apply_async(kwargs=message_kwargs(job), retry=False)
"""

LEANEST_CELERY = """
import boto3
from celery import Celery

app = Celery("trigger", broker="sqs://")

def publish():
    boto3.client("s3")
    app.send_task("cis_tasks.calibrate_spine", kwargs={"job": {}}, retry=False)
"""

HANDLERS = {
    "ours": OURS,
    "ours, publishing with Celery": SAME_WITH_CELERY,
    "leanest with Celery": LEANEST_CELERY,
}

MODULES = """
import json, sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
module = __import__(sys.argv[2])
try:
    module.publish()
except Exception:
    pass  # nobody answers
print(json.dumps([name for name in sys.modules if name not in before]))
"""

TIMED = """
import importlib, json, sys, time
sys.path.insert(0, sys.argv[1])
names = json.loads(sys.argv[2])
wall, cpu = time.perf_counter(), time.process_time()
for name in names:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # made by another module, not a file of its own
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"wall_ms": 1e3 * wall, "cpu_ms": 1e3 * cpu, "modules": len(names)}))
"""

NOWHERE = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_MAX_ATTEMPTS": "1",
    "CIS_QUEUE_URL_SPINE": "http://127.0.0.1:1/0/jobs.fifo",
}


def run(script: str, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **NOWHERE},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Handler:
    """A handler in a folder of its own, and the modules that it needs to publish."""

    folder: Path
    modules: str


def prepare(place: Path) -> dict[str, Handler]:
    """Write the handlers and see what each imports; ours from the very zip that is deployed."""
    found = {}
    for number, (name, source) in enumerate(HANDLERS.items()):
        folder = place / str(number)
        folder.mkdir()
        if name == "ours":
            ZipFile(build(place / "package.zip").path).extractall(folder)
        (folder / "bench_handler.py").write_text(source)
        found[name] = Handler(folder, json.dumps(run(MODULES, str(folder), "bench_handler")))
    return found


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Handler → medians."""
    runs: dict[str, list[Mapping[str, float]]] = {name: [] for name in HANDLERS}
    with tempfile.TemporaryDirectory() as place:
        handlers = prepare(Path(place))
        for _ in range(rounds):
            for name, handler in handlers.items():
                runs[name].append(run(TIMED, str(handler.folder), handler.modules))
    return {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for name, found in runs.items()
    }


def main() -> None:
    options = arguments(__doc__).parse_args()
    rounds = 9 if options.quick else 31
    figures = measure(rounds)
    ours = figures["ours"]
    ratios = {name: ours["wall_ms"] / figure["wall_ms"] for name, figure in figures.items()}
    report(
        f"Imports up to the first message, medians of {rounds} new interpreters",
        ["handler", "wall ms", "CPU ms", "modules", "ours / it"],
        [
            [
                name,
                f"{figure['wall_ms']:.0f}",
                f"{figure['cpu_ms']:.0f}",
                f"{figure['modules']:.0f}",
                f"{ratios[name]:.2f}",
            ]
            for name, figure in figures.items()
        ],
        figures={"handlers": figures, "ratios": ratios},
        goals=[
            Goal.at_most(
                "import ms, ours / ours publishing with Celery",
                ratios["ours, publishing with Celery"],
                GOAL_RATIO,
            )
        ],
        as_json=options.as_json,
    )


if __name__ == "__main__":
    main()
