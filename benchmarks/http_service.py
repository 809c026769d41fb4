"""What the way through S3 and the queue costs: ours beside servers that hold the model themselves.

FastAPI with its thread pool, LitServe and BentoML answer each POST of a photograph in their own
process; ours puts it into S3, queues it with SQS FIFO, and a Celery worker answers. All run the
same weights in onnxruntime with one thread, decode with the same code, and are asked by the same
clients over kept connections, one system after the other.

The emulated AWS shares the cores with ours, which it does not on AWS. Its long polls wake when a
message is sent, as AWS's do (ministack looks ten times a second), and the Lambda of S3's events is
not run, which has a machine of its own on AWS and publishes nothing that the tier has not. "set
aside" is the throughput with its CPU given to the tier and its worker: req/s × (own + emulator's
CPU) / own.
"CPU ms" is that of a system's processes per request; "noise" is how many cores others kept busy.
LitServe and BentoML have environments of their own in .cis/bench-envs, on top of this one.
"""

from __future__ import annotations

import http.client
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from broker_peers.emulator import emulator
from broker_peers.processes import CSTIME, TICKS_PER_S, UTIME, cpu_s, machine_cpu_s
from broker_peers.systems import ENVIRONMENTS, UnavailableError, environment
from http_peers import load
from PIL import Image
from reporting import Goal, arguments, report
from skimage import data

from cis_tasks.local import environment as env
from cis_tasks.local.cloud import Cloud, start
from cis_tasks.local.emulator import free_port
from cis_tasks.local.process import Process
from cis_tasks.local.workers import Worker
from cis_tasks.pipelines import find
from cis_tasks.worker.command import pool_options

PEERS = Path(__file__).parent / "http_peers"
CLIENTS = (1, 8, 32, 100)
LABEL = "espresso"
READY_S = 180.0
PARENT = 1  # after the command, see proc(5)
THROUGHPUT, LATENCY_MS = 0.8, 80.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "true", "DO_NOT_TRACK": "1"}
COLUMNS = ["system", "c", "req/s", "set aside", "p50 p95 p99 ms", "CPU ms", "emulator", "noise"]


@dataclass(frozen=True)
class Serving:
    """A system that answers.

    Attributes:
        url: where.
        roots: the processes that its others descend from.
        emulator: session of the emulated AWS that it uses; None for those that use none.
        cloud: the stack on it.
    """

    url: str
    roots: tuple[int, ...]
    emulator: int | None = None
    cloud: Cloud | None = None


@dataclass
class Found:
    """What was measured of a system at one number of clients."""

    load: load.Load
    cpu_ms: float
    emulator_ms: float
    noise: float

    @property
    def set_aside_per_s(self) -> float:
        """Requests a second, had the emulator's CPU been the system's."""
        return self.load.per_s * (self.cpu_ms + self.emulator_ms) / max(self.cpu_ms, 1e-9)


@dataclass
class Results:
    """What was measured of a system; why it was not, where it was not."""

    by_clients: dict[int, Found] = field(default_factory=dict)
    problem: str = ""


@contextmanager
def ours(folder: Path) -> Iterator[Serving]:
    """The web tier, a worker, and the emulated AWS."""
    with ExitStack() as down:
        (folder / "emulator").mkdir()
        server = down.enter_context(emulator(folder / "emulator"))
        down.enter_context(variables(env.to_emulator(server.endpoint)))
        cloud = down.enter_context(start(state=folder, workers=0))
        cloud.client("s3").put_bucket_notification_configuration(
            Bucket=cloud.stack.input_bucket, NotificationConfiguration={}
        )
        settings = {**of_process(cloud.environment), **ONE_THREAD, "CIS_IMAGE_DEVICE": "cpu"}
        image = find("image")
        worker = Worker(
            "image",
            image.queue,
            environment=settings,
            folder=folder,
            options=[*pool_options(image), "--loglevel", "WARNING"],
        )
        down.callback(worker.kill)
        worker.await_ready(READY_S)
        port = free_port()
        command = [sys.executable, "-m", "cis_tasks", "web", "--port", str(port)]
        tier = Process(command, log=folder / "web.log", env=settings)
        down.callback(tier.kill)
        roots = (worker.pid, tier.pid)
        yield ready(Serving(f"http://127.0.0.1:{port}/", roots, server.pid, cloud), tier)


@contextmanager
def variables(given: Mapping[str, str]) -> Iterator[None]:
    """Within the block, this process has these environment variables too."""
    before = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def peer(python: Callable[[], Path], command: Sequence[str], path: str = "/") -> Callable[..., Any]:
    """A server of one process tree, started by ``command`` with its port at the end."""

    @contextmanager
    def serving(folder: Path) -> Iterator[Serving]:
        port = free_port()
        settings = {**of_process({}), **ONE_THREAD, "BENTOML_HOME": str(folder)}
        line = [str(python() / command[0]), *command[1:], str(port)]
        process = Process(line, log=folder / "server.log", env=settings, cwd=PEERS)
        try:
            yield ready(Serving(f"http://127.0.0.1:{port}{path}", (process.pid,)), process)
        finally:
            process.kill()

    return serving


def on_top(name: str) -> Callable[[], Path]:
    """Programs of an environment of its own, which has what this one has as well."""

    def make() -> Path:
        programs = environment(PEERS / f"{name}.txt")
        [packages] = (ENVIRONMENTS / name / "lib").glob("python*/site-packages")
        (packages / "ours.pth").write_text(os.pathsep.join(_our_packages()))
        return programs

    return make


SYSTEMS: Mapping[str, Callable[..., Any]] = {
    "ours": ours,
    "FastAPI": peer(lambda: Path(sys.executable).parent, ["python", "fastapi_app.py"]),
    "LitServe": peer(on_top("litserve"), ["python", "litserve_app.py"], "/classify"),
    "BentoML": peer(
        on_top("bentoml"),
        ["python", "-m", "bentoml", "serve", "bentoml_app:Service", "--port"],
        "/classify",
    ),
}


def of_process(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a server: ours can be imported, and nothing leads to another AWS."""
    return env.of_worker(env.without(os.environ, "AWS_", "CIS_"), variables, 1)


def ready(serving: Serving, process: Process) -> Serving:
    """Wait until it answers as it should.

    Raises:
        UnavailableError: it does not; with the end of its log.
    """
    where, deadline, seen = urlsplit(serving.url), time.monotonic() + READY_S, ""
    while process.running and time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
            status, seen = load.ask(connection, where.path, photograph())
            if status == 200 and LABEL in seen:
                return serving
        except OSError as error:
            seen = str(error)
        time.sleep(0.5)
    tail = process.log_tail(3).replace("\n", " ")
    raise UnavailableError(f"it does not answer: {seen[:80]} {tail[-200:]}")


def photograph() -> bytes:
    """A cup of coffee, 600 × 400."""
    made = io.BytesIO()
    Image.fromarray(data.coffee()).save(made, "JPEG", quality=90)
    return made.getvalue()


def measure(name: str, seconds: float, clients: Sequence[int]) -> Results:
    """One system at each number of clients."""
    results, image = Results(), photograph()
    try:
        with tempfile.TemporaryDirectory() as folder, SYSTEMS[name](Path(folder)) as serving:
            load.run(serving.url, image, LABEL, 8, min(3.0, seconds))  # warm
            for count in clients:
                results.by_clients[count] = _measure_one(serving, image, count, seconds)
    except UnavailableError as error:
        results.problem = str(error)
    return results


def _measure_one(serving: Serving, image: bytes, clients: int, seconds: float) -> Found:
    def spent() -> tuple[float, float, float]:
        own = sum(map(cpu_of_tree, serving.roots))
        emulator = cpu_s(serving.emulator) if serving.emulator else 0.0
        return own, emulator, machine_cpu_s() - time.process_time()

    before = spent()
    found = load.run(serving.url, image, LABEL, clients, seconds)
    own, emulator, machine = (b - a for a, b in zip(before, spent(), strict=True))
    answers = max(1, len(found.seconds))
    noise = (machine - own - emulator) / found.elapsed_s
    return Found(found, 1000 * own / answers, 1000 * emulator / answers, noise)


def cpu_of_tree(root: int) -> float:
    """CPU seconds of a process and all that descend from it, whatever session they are in."""
    children: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[PARENT]), []).append(int(entry.name))
        spent[int(entry.name)] = sum(map(int, fields[UTIME : CSTIME + 1])) / TICKS_PER_S
    total, pending = 0.0, [root]
    while pending:
        process = pending.pop()
        total += spent.get(process, 0.0)
        pending += children.get(process, ())
    return total


def _our_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def rows(found: Mapping[str, Results]) -> list[list[str]]:
    """The table."""
    table = []
    for name, results in found.items():
        if results.problem:
            table.append([name, "", results.problem, "", "", "", "", ""])
        for count, one in results.by_clients.items():
            latencies = " ".join(f"{one.load.percentile_ms(s):.0f}" for s in (0.5, 0.95, 0.99))
            table.append(
                [
                    name,
                    str(count),
                    f"{one.load.per_s:.1f}{_wrong(one.load)}",
                    f"{one.set_aside_per_s:.1f}" if one.emulator_ms else "",
                    latencies,
                    f"{one.cpu_ms:.1f}",
                    f"{one.emulator_ms:.1f}" if one.emulator_ms else "",
                    f"{one.noise:.1f}",
                ]
            )
    return [*table, *_what_the_queue_costs(found)]


def _what_the_queue_costs(found: Mapping[str, Results]) -> list[list[str]]:
    """One client's request through the queue, above FastAPI's, which holds the model itself."""
    if not all(name in found and found[name].by_clients for name in ("ours", "FastAPI")):
        return []
    through, beside = found["ours"].by_clients[1], found["FastAPI"].by_clients[1]
    p50_ms = through.load.percentile_ms(0.5) - beside.load.percentile_ms(0.5)
    cpu_ms = through.cpu_ms - beside.cpu_ms
    return [["the queue costs", "1", "", "", f"{p50_ms:+.0f}", f"{cpu_ms:+.1f}", "", ""]]


def _wrong(found: load.Load) -> str:
    return f" ({len(found.wrong)} wrong)" if found.wrong else ""


def goals(found: Mapping[str, Results]) -> list[Goal]:
    """Throughput beside the best peer, and what the queue adds to one request."""
    mine = found["ours"].by_clients
    peers = [results.by_clients for name, results in found.items() if name != "ours"]
    peers = [one for one in peers if one]
    if not mine or not peers:
        return []
    best = max(found.load.per_s for peer in peers for found in peer.values())
    ratio = max(one.set_aside_per_s for one in mine.values()) / best
    extra = mine[1].load.percentile_ms(0.5) - min(peer[1].load.percentile_ms(0.5) for peer in peers)
    return [
        Goal(
            "req/s, emulator set aside, of the best peer's", ratio, THROUGHPUT, ratio >= THROUGHPUT
        ),
        Goal.at_most("p50 at one client above the best peer's, ms", extra, LATENCY_MS),
    ]


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", choices=SYSTEMS, help="systems; quick: the first two")
    parser.add_argument("--seconds", type=float, help="per system and number of clients")
    given = parser.parse_args()
    seconds = given.seconds or (3.0 if given.quick else 15.0)
    clients = CLIENTS[:2] if given.quick else CLIENTS
    chosen = given.only or (list(SYSTEMS)[:2] if given.quick else list(SYSTEMS))
    found = {name: measure(name, seconds, clients) for name in chosen}
    figures = {
        name: results.problem
        or {
            str(count): {
                "per_s": one.load.per_s,
                "set_aside_per_s": one.set_aside_per_s,
                **{f"p{round(100 * s)}_ms": one.load.percentile_ms(s) for s in (0.5, 0.95, 0.99)},
                "cpu_ms": one.cpu_ms,
                "emulator_ms": one.emulator_ms,
                "wrong": len(one.load.wrong),
            }
            for count, one in results.by_clients.items()
        }
        for name, results in found.items()
    }
    report(
        "POST of a photograph",
        COLUMNS,
        rows(found),
        figures=figures,
        goals=goals(found) if "ours" in found else [],
        as_json=given.as_json,
    )


if __name__ == "__main__":
    main()
