"""The local HTTP port: is it live, is it ready, its metrics."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cis_tasks.worker import probes

PATHS = ("/livez", "/readyz", "/metrics")


class Server:
    """Serves on a thread until it is closed; a forked child does not.

    Args:
        port: where; 0 takes a free one.
        host: the address to listen on.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._http = ThreadingHTTPServer((host, port), _Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.5,), name="health-http", daemon=True
        )
        self._thread.start()
        # A child that outlives its parent would keep the port from the next worker.
        os.register_at_fork(after_in_child=self._http.socket.close)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._http.server_address[1])

    def close(self) -> None:
        """End."""
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one of `PATHS`."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            from cis_tasks.worker import metrics  # noqa: PLC0415  prometheus-client is optional

            self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics.page())
        elif path in PATHS:
            health = probes.examine()
            ok = health.live if path == "/livez" else health.ready
            told = {
                "live": health.live,
                "ready": health.ready,
                "probes": {name: vars(each) for name, each in health.readings.items()},
            }
            self._answer(200 if ok else 503, "application/json", json.dumps(told).encode())
        else:
            self._answer(404, "text/plain", f"There are {', '.join(PATHS)}.\n".encode())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: probes come every few seconds."""
