"""The embedded AWS: ministack as a subprocess on a free port of 127.0.0.1."""

from __future__ import annotations

import fcntl
import http.client
import importlib.util
import json
import os
import shutil
import socket
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from cis_tasks.local.environment import HOST, REGION, past_proxies, to_emulator, without
from cis_tasks.local.errors import CloudError
from cis_tasks.local.process import Process

START_TIMEOUT_S = 120.0
PORT_ATTEMPTS = 5
INVOCATIONS = max(4, 2 * (os.cpu_count() or 1))  # of Lambda functions, under way at once


class Emulator:
    """A running ministack. Everything that it keeps is in its process or under ``state``.

    Use it as a context manager, or call `start` and `stop`.

    Attributes:
        state: folder for its log and files.
        endpoint: its URL once started.
    """

    def __init__(self, state: Path) -> None:
        self.state = state.resolve()
        self.endpoint = ""
        self._process: Process | None = None

    @property
    def log(self) -> Path:
        """Its log file."""
        return self.state / "emulator.log"

    @property
    def pid(self) -> int | None:
        """Its process id; None before the start."""
        return self._process.pid if self._process else None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that point every AWS client to it."""
        return to_emulator(self.endpoint)

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start it and wait until it answers.

        Raises:
            CloudError: it is not installed; another one uses the same state folder; or it ended
                or did not answer in time, with the end of its log.
        """
        if importlib.util.find_spec("ministack") is None:
            raise CloudError("The embedded AWS is not installed: pip install 'cis-tasks[local]'.")
        self._claim_state()
        deadline = time.monotonic() + timeout_s
        for _ in range(PORT_ATTEMPTS):  # between choosing a port and binding it, others may
            port = free_port()
            process = self._launch(port)
            if self._await_health(process, port, deadline):
                self._process = process
                self.endpoint = f"http://{HOST}:{port}"
                return
            if process.running or "already in use" not in process.log_tail():
                break
            process.kill()
        running = process.running
        process.kill()
        self._release_state()
        what = f"did not answer within {timeout_s:.0f} s" if running else "ended at once"
        raise CloudError(f"The embedded AWS {what}. The end of {self.log}:\n{process.log_tail()}")

    def stop(self) -> None:
        """End it, with everything in it. Does nothing where it is not running."""
        if self._process:
            self._process.kill()  # it keeps nothing, and would wait for open long polls
            self._process = None
            self._release_state()

    def healthy(self) -> bool:
        """Whether it runs and answers."""
        return self._process is not None and self._process.running and bool(health(self.endpoint))

    def __enter__(self) -> Emulator:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _claim_state(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.state / "lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process
        except BlockingIOError:
            os.close(self._lock)
            raise CloudError(
                f"Another cloud runs with the state folder {self.state}. "
                "Stop that one, or choose another folder."
            ) from None
        self._clear()

    def _release_state(self) -> None:
        self._clear()
        os.close(self._lock)

    def _clear(self) -> None:
        for folder in ("tmp", "services", "s3"):
            shutil.rmtree(self.state / folder, ignore_errors=True)

    def _launch(self, port: int) -> Process:
        self._nonce = uuid.uuid4().hex
        (self.state / "tmp").mkdir(exist_ok=True)
        settings = {
            "BIND_HOST": HOST,
            "GATEWAY_PORT": str(port),
            "MINISTACK_HOST": HOST,  # the host in queue URLs; "localhost" may be ::1 first
            "MINISTACK_REGION": REGION,
            "MINISTACK_EDITION": self._nonce,  # comes back in its health: proves who answers
            "TMPDIR": str(self.state / "tmp"),  # the Lambda's code, the pid file
            "STATE_DIR": str(self.state / "services"),
            "S3_DATA_DIR": str(self.state / "s3"),
            "PERSIST_STATE": "0",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            # These have general names: whoever starts us may have them set for something else.
            "AUTH": "false",
            "LOG_LEVEL": "INFO",
            "SERVICES": "",
            "USE_SSL": "0",
        }
        # Its Lambda functions inherit its environment: no credentials, profiles or endpoints.
        clean = without(os.environ, "AWS_", "CIS_", "LAMBDA_", "LOCALSTACK_", "MINISTACK_")
        env = {**clean, **past_proxies(os.environ), **settings}
        command = [sys.executable, "-m", "cis_tasks.local.ministack", str(INVOCATIONS)]
        return Process(command, log=self.log, env=env)

    def _await_health(self, process: Process, port: int, deadline: float) -> bool:
        while process.running and time.monotonic() < deadline:
            if health(f"http://{HOST}:{port}", timeout_s=1).get("edition") == self._nonce:
                return True
            time.sleep(0.05)
        return False


def health(endpoint: str, timeout_s: float = 5) -> dict[str, Any]:
    """What ministack says about itself; empty where it does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint}/_ministack/health", timeout=timeout_s) as reply:
            found = json.load(reply)
    except (OSError, ValueError, http.client.HTTPException):  # some other server's answer
        return {}
    return found if isinstance(found, dict) else {}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
