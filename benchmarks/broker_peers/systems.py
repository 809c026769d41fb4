"""The systems compared: how each is started, and the environment that it runs in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".cis" / "bench-envs"
SLOTS = 8  # jobs at a time, in one process
INSTALL_TIMEOUT_S = 300


class UnavailableError(RuntimeError):
    """A system cannot be run here."""


@dataclass(frozen=True)
class System:
    """One system under measurement.

    Attributes:
        name: for people.
        app: the module in this folder with its jobs and its publisher.
        worker: command line of its worker, after the folder of its environment's programs.
        requirements: file of pinned versions for an environment of its own; None for this one.
        fifo: whether it has code for FIFO queues; standard ones are used otherwise.
        results: whether it can return results through AWS.
        makes_queue: whether it insists on making its queue itself.
        settings: environment variables of its processes.
        folder: where its ``app`` lies.
    """

    name: str
    app: str
    worker: tuple[str, ...]
    requirements: str | None = None
    fifo: bool = True
    results: bool = True
    makes_queue: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    folder: Path = HERE

    def programs(self) -> Path:
        """The folder of its environment's programs, made on first use.

        Raises:
            UnavailableError: the environment cannot be made.
        """
        if self.requirements is None:
            return Path(sys.executable).parent
        return environment(HERE / self.requirements)


def celery(pool: str) -> tuple[str, ...]:
    """A Celery worker."""
    slots = "1" if pool == "solo" else str(SLOTS)
    return ("celery", "-A", "celery_app", "worker", "-P", pool, "-c", slots, "-l", "WARNING")


def systems(pool: str) -> tuple[System, ...]:
    """All of them, ours first.

    Args:
        pool: Celery's, for ours and for stock alike.
    """
    stock = {"BENCH_LAYER": "stock"}
    dramatiq = ("dramatiq", "-p", "1", "-t", str(SLOTS), "dramatiq_app")
    taskiq = ("taskiq", "worker", "-w", "1", "--max-async-tasks", str(SLOTS))
    return (
        System("ours", "celery_app", celery(pool), settings={"BENCH_LAYER": "ours"}),
        System(
            "Celery tuned",
            "celery_app",
            celery(pool),
            settings={**stock, "BENCH_POLLING_INTERVAL_S": "0.05"},
        ),
        System("Celery default", "celery_app", celery(pool), settings=stock),
        System(
            "dramatiq-sqs",
            "dramatiq_app",
            dramatiq,
            requirements="dramatiq.txt",
            fifo=False,
            results=False,
            makes_queue=True,
        ),
        System(
            "taskiq-aio-sqs",
            "taskiq_app",
            (*taskiq, "--log-level", "WARNING", "taskiq_app:broker"),
            requirements="taskiq.txt",
            settings={"BENCH_POLLING_INTERVAL_S": "0.05"},
        ),
    )


def environment(requirements: Path) -> Path:
    """The programs of an environment with just these packages, made where it is not there.

    Raises:
        UnavailableError: it cannot be made; with the end of what pip said.
    """
    folder = ENVIRONMENTS / requirements.stem
    mark = folder / hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    if not mark.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "pip"), "install", "--quiet", "-r", str(requirements)])
        mark.touch()
    return folder / "bin"


def _run(command: list[str]) -> None:
    base = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        subprocess.run(
            command,
            check=True,
            timeout=INSTALL_TIMEOUT_S,
            capture_output=True,
            text=True,
            env=base,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["nothing"]
        raise UnavailableError(f"{Path(command[0]).name} failed: {said[-1]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{Path(command[0]).name} failed: {error}") from error
