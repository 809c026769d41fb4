"""The web tier of the laptop cloud: the same ``cis web`` as anywhere."""

from __future__ import annotations

import http
import http.client
import importlib.util
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cis_tasks.local import environment as env
from cis_tasks.local.cloud import Cloud
from cis_tasks.local.emulator import free_port
from cis_tasks.local.environment import HOST
from cis_tasks.local.errors import CloudError
from cis_tasks.local.process import Process

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "PIL")
PORT = 8080  # where it is free
READY_TIMEOUT_S = 120.0


@contextmanager
def web_tier(cloud: Cloud) -> Iterator[str]:
    """Within the block, the web tier of a cloud serves; its URL, empty where it is not installed.

    Raises:
        CloudError: it did not start.
    """
    if not all(importlib.util.find_spec(name) for name in PACKAGES):
        cloud.tell("no web tier: pip install 'cis-tasks[web]'")
        yield ""
        return
    inherited = env.without(os.environ, "AWS_") if cloud.emulator else os.environ
    tier = WebTier(env.of_worker(inherited, cloud.environment, 1), cloud.state)
    try:
        tier.await_ready()
        cloud.tell(f"web tier at {tier.url} (log {tier.log})")
        yield tier.url
    finally:
        tier.stop()


class WebTier:
    """One ``cis web`` process on this machine alone.

    Attributes:
        url: where it is.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        """Launch it; `await_ready` waits until it answers.

        Args:
            environment: all its environment variables; see `environment.of_worker`.
            folder: where its log goes.
        """
        self._port = PORT if _is_free(PORT) else free_port()
        self.url = f"http://{HOST}:{self._port}/"
        command = [sys.executable, "-m", "cis_tasks", "web"]
        command += ["--host", HOST, "--port", str(self._port)]
        self._process = Process(command, log=folder / "web.log", env=environment)

    @property
    def log(self) -> Path:
        """Its log file."""
        return self._process.log

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process.running

    def await_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until it answers.

        Raises:
            CloudError: it ended or did not answer in time; carries the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while self.running and time.monotonic() < deadline:
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(HOST, self._port, timeout=5)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return
            time.sleep(0.1)
        tail = self._process.log_tail()
        raise CloudError(f"The web tier did not start. The end of {self.log}:\n{tail}")

    def stop(self) -> None:
        """End it; requests under way are answered first."""
        self._process.stop(5)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0
