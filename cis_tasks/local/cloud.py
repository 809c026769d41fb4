"""The laptop cloud as a whole: an AWS, the stack on it, and workers; up and down together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import boto3

from cis_tasks.local import environment as env
from cis_tasks.local.emulator import Emulator
from cis_tasks.local.stack import Deployer, Names, Stack, client
from cis_tasks.local.workers import State, Worker, stop_all
from cis_tasks.pipelines import PIPELINES, find
from cis_tasks.worker.command import pool_options
from scaling.backlog import read_backlog

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

Tell = Callable[[str], None]
POLLS = {"CIS_POLL_WAIT_S": "2"}


@dataclass(frozen=True)
class QueueCounts:
    """About how many messages of one pipeline there are.

    Attributes:
        waiting: to be received.
        running: received and not yet deleted.
        dead: in the dead-letter queue.
    """

    waiting: int
    running: int
    dead: int


@dataclass
class Cloud:
    """A running cloud; made by `start`.

    Attributes:
        environment: the variables that lead any process to it: AWS_ENDPOINT_URL, credentials,
            region, CIS_INPUT_BUCKET, CIS_OUTPUT_BUCKET, CIS_QUEUE_URL_<PIPELINE>.
        stack: what stands in it.
        state: folder with its logs and files.
        emulator: its AWS; None where one that was there already is used.
        workers: its worker processes, ended ones included.
    """

    environment: Mapping[str, str]
    stack: Stack
    state: Path
    emulator: Emulator | None
    tell: Tell
    workers: list[Worker] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """URL of its AWS."""
        return self.environment["AWS_ENDPOINT_URL"]

    @property
    def script(self) -> Path:
        """File that a shell reads with ``.`` to find the cloud; there while the cloud is up."""
        return self.state / "environment.sh"

    def client(self, service: Literal["s3", "sqs", "lambda", "logs", "cloudformation"]) -> Any:
        """A boto3 client for it, whatever the environment of this process says."""
        return client(_session(self.environment), service, self.endpoint)

    def add_workers(self, count: int = 1, pipeline: str = "spine") -> list[Worker]:
        """Start workers of one pipeline and wait until they take jobs.

        Raises:
            CloudError: one did not start; carries the end of its log.
        """
        added = [self._launch(pipeline, count) for _ in range(count)]
        for worker in added:
            worker.await_ready()
            self.tell(f"worker {worker.name} ready (pid {worker.pid}, log {worker.log})")
        return added

    def queue_counts(self) -> dict[str, QueueCounts]:
        """The messages of each pipeline, as SQS counts them."""
        sqs = cast("SQSClient", self.client("sqs"))
        counts = {}
        for pipeline, url in self.stack.queue_urls.items():
            jobs = read_backlog(sqs, url)
            dead = read_backlog(sqs, self.stack.dead_letter_urls[pipeline]).visible
            counts[pipeline] = QueueCounts(jobs.visible, jobs.in_flight, dead)
        return counts

    def worker_states(self) -> dict[str, State]:
        """What each worker is doing, by name."""
        return {worker.name: worker.state for worker in self.workers}

    def healthy(self) -> bool:
        """Whether its AWS runs; always so for one that was there already."""
        return self.emulator is None or self.emulator.healthy()

    def _launch(self, pipeline: str, count: int) -> Worker:
        name = f"{pipeline}-{len(self.workers) + 1}"
        inherited: Mapping[str, str] = os.environ
        if self.emulator:  # whose calls cost nothing: short polls let a worker end soon
            inherited = {**POLLS, **env.without(os.environ, "AWS_")}
        beside = max(count, sum(worker.exit_code is None for worker in self.workers) + 1)
        worker = Worker(
            name,
            find(pipeline).queue,
            environment=env.of_worker(inherited, self.environment, beside),
            folder=self.state / "workers",
            options=pool_options(find(pipeline)),
        )
        self.workers.append(worker)
        self.tell(f"worker {name} starts (queue {worker.queue}, log {worker.log})")
        return worker


@contextmanager
def start(
    *,
    state: Path,
    workers: int = 1,
    names: Names | None = None,
    parameters: Mapping[str, str] | None = None,
    tell: Tell = lambda _: None,
) -> Iterator[Cloud]:
    """Bring a cloud up; on leaving the block, take down what was started, in reverse order.

    Where ``AWS_ENDPOINT_URL`` is set, that AWS is used and the stack is left standing in it;
    otherwise an embedded one is started, which takes all that it holds with it.

    Args:
        state: folder for logs and files; made where it does not exist.
        workers: how many worker processes for each pipeline.
        names: what to call the stack and its parts; the template's defaults if None.
        parameters: further parameters of the template.
        tell: called with one line for each thing that happened.

    Raises:
        CloudError: a part could not be started; those before it have been taken down.
    """
    state = state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    with ExitStack() as down:
        emulator = None if os.environ.get("AWS_ENDPOINT_URL") else Emulator(state)
        if emulator:
            down.enter_context(emulator)
            down.callback(tell, "stopping the embedded AWS")
            tell(f"embedded AWS at {emulator.endpoint} (log {emulator.log})")
        environment = emulator.environment if emulator else env.to_given_aws()
        deployer = Deployer(_session(environment), environment["AWS_ENDPOINT_URL"])
        stack = deployer.deploy(names or Names(), parameters)
        tell(f"stack {stack.name} stands ({stack.input_bucket} → {stack.output_bucket})")
        cloud = Cloud(
            environment={**environment, **stack.environment},
            stack=stack,
            state=state,
            emulator=emulator,
            tell=tell,
        )
        env.write_script(cloud.environment, cloud.script)
        down.callback(cloud.script.unlink, missing_ok=True)
        down.callback(_take_workers_down, cloud)
        for pipeline in PIPELINES if workers else ():
            cloud.add_workers(workers, pipeline)
        yield cloud


def _session(environment: Mapping[str, str]) -> boto3.Session:
    return boto3.Session(
        aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=environment.get("AWS_SESSION_TOKEN"),
        region_name=environment["AWS_REGION"],
    )


def _take_workers_down(cloud: Cloud) -> None:
    running = [worker for worker in cloud.workers if worker.exit_code is None]
    if running:
        cloud.tell(f"stopping {len(running)} worker{'s' if len(running) > 1 else ''}")
    stop_all(cloud.workers)
