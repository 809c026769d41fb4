"""The emulator that a benchmark measures against, and what it says of its callers."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config

from cis_tasks.local.emulator import free_port, health
from cis_tasks.local.environment import HOST, REGION, past_proxies, to_emulator, without
from cis_tasks.local.process import Process

START_TIMEOUT_S = 60
PATIENT = Config(read_timeout=5, retries={"mode": "standard", "total_max_attempts": 10})
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class EmulatorError(RuntimeError):
    """The emulator did not start."""


@dataclass(frozen=True)
class Counts:
    """What has been asked of the emulator so far.

    Attributes:
        calls: kind of call → how many.
        deleted: messages deleted, however many to a call.
        faults: injected, by kind.
    """

    calls: dict[str, int]
    deleted: int
    faults: dict[str, int]


@dataclass(frozen=True)
class Emulator:
    """A running ministack that counts; see `counted_ministack`.

    Attributes:
        endpoint: its URL.
        pid: of its process, and of the session that it leads.
    """

    endpoint: str
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a process's AWS clients here, and nowhere else."""
        base = without(os.environ, "AWS_", "CIS_", "CELERY_")
        return {**base, **to_emulator(self.endpoint), "AWS_CONFIG_FILE": os.devnull}

    def counts(self) -> Counts:
        """What has been asked so far."""
        with _opener.open(f"{self.endpoint}/_calls", timeout=30) as reply:
            return Counts(**json.load(reply))

    def fail(self, share: float) -> None:
        """Let this share of the calls fail from now on."""
        request = urllib.request.Request(f"{self.endpoint}/_faults/{share}", method="PUT")
        _opener.open(request, timeout=30).close()

    def client(self, service: str):  # type: ignore[no-untyped-def]
        """A boto3 client for it, of this process and patient with faults."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=PATIENT,
        )


@contextmanager
def emulator(folder: Path, *, fault_seed: int = 0, wakes: bool = True) -> Iterator[Emulator]:
    """A fresh one, for the time of the block.

    Args:
        folder: for its log and files.
        fault_seed: of the faults, once it is told to have some.
        wakes: whether a long poll answers as soon as a message is sent, as AWS's does.

    Raises:
        EmulatorError: it did not start; with the end of its log.
    """
    port = free_port()
    (folder / "tmp").mkdir()
    settings = {
        "BIND_HOST": HOST,
        "MINISTACK_HOST": HOST,
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": REGION,
        "TMPDIR": str(folder / "tmp"),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "FAULT_SEED": str(fault_seed),
        "WAKES": "yes" if wakes else "no",
    }
    clean = without(os.environ, "AWS_", "CIS_", "LAMBDA_", "LOCALSTACK_", "MINISTACK_")
    process = Process(
        [sys.executable, str(Path(__file__).with_name("counted_ministack.py"))],
        log=folder / "emulator.log",
        env={**clean, **past_proxies(os.environ), **settings},
    )
    try:
        yield _ready(process, f"http://{HOST}:{port}")
    finally:
        process.kill()


def _ready(process: Process, endpoint: str) -> Emulator:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.running and time.monotonic() < deadline:
        if health(endpoint, timeout_s=1):
            return Emulator(endpoint, process.pid)
        time.sleep(0.05)
    raise EmulatorError(f"The emulator did not start:\n{process.log_tail()}")
