"""moto's server as a subprocess: a second emulator, by other people, to test the broker against.

Where it differs from AWS in a way that a test rests on, that test says so with
``@pytest.mark.not_on_moto("what AWS does, and what moto does")`` and is skipped there.
"""

from __future__ import annotations

import http.client
import os
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType

from cis_tasks.local.emulator import free_port
from cis_tasks.local.environment import HOST, past_proxies, to_emulator, without
from cis_tasks.local.process import Process

SERVER = Path(__file__).with_name("moto_server.py")
START_TIMEOUT_S = 60.0
PORT_ATTEMPTS = 5


class Moto:
    """A running moto server: threaded, in memory, gone with this process.

    Used as `cis_tasks.local.emulator.Emulator` is, as far as the broker's tests do.
    """

    def __init__(self, state: Path) -> None:
        self.log = state / "moto.log"
        self.endpoint = ""

    @property
    def environment(self) -> dict[str, str]:
        return to_emulator(self.endpoint)

    def __enter__(self) -> Moto:
        clean = without(os.environ, "AWS_", "CIS_", "MOTO_")
        env = {**clean, **past_proxies(os.environ)}
        deadline = time.monotonic() + START_TIMEOUT_S
        for _ in range(PORT_ATTEMPTS):  # between choosing a port and binding it, others may
            port = free_port()
            # -P: beside the server lies a module of the name of moto
            command = [sys.executable, "-P", str(SERVER), "-H", HOST, "-p", str(port)]
            self.process = Process(command, log=self.log, env=env)
            while self.process.running and time.monotonic() < deadline:
                if answers(f"http://{HOST}:{port}") and self.process.running:
                    self.endpoint = f"http://{HOST}:{port}"
                    return self
                time.sleep(0.05)
            self.process.kill()
        raise RuntimeError(f"moto did not start:\n{self.process.log_tail()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()


def answers(endpoint: str) -> bool:
    """Whether a moto server is there."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint}/moto-api/data.json", timeout=5) as reply:
            return reply.status == 200
    except (OSError, http.client.HTTPException):
        return False
