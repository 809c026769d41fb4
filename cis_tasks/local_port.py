"""A local HTTP port where a process tells how it does: to a probe, to Prometheus.

It is not the port that clients use, so that a load balancer leads nobody to it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of the text that Prometheus reads."""


@dataclass(frozen=True)
class Page:
    """What is answered.

    Attributes:
        body: what.
        media_type: of the body.
        status: HTTP status.
    """

    body: bytes
    media_type: str = PROMETHEUS
    status: int = 200


Pages = Mapping[str, Callable[[], Page]]
"""Path → what makes its page."""


class Server:
    """Serves on a thread until it is closed; a forked child does not.

    Args:
        pages: what there is.
        port: where; 0 takes a free one.
        host: the address to listen on.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, pages: Pages, port: int, host: str = "127.0.0.1") -> None:
        self._http = _Listener((host, port), _Handler)
        self._http.pages = pages
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.5,), name="local-port", daemon=True
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


def first_free(pages: Pages, ports: Iterable[int], host: str = "127.0.0.1") -> Server:
    """Serve at the first port that is free: several processes of one machine share a range.

    Raises:
        OSError: all are taken.
    """
    taken: OSError | None = None
    for port in ports:
        try:
            return Server(pages, port, host)
        except OSError as error:
            taken = error
    raise taken or OSError("no port to listen on is given")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = False  # two processes at one port would answer in turns
    pages: Pages


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with one of the pages."""
        pages = cast("_Listener", self.server).pages
        make = pages.get(self.path.partition("?")[0])
        if make is None:
            page = Page(f"There are {', '.join(pages)}.\n".encode(), "text/plain", 404)
        else:
            page = make()
        self.send_response(page.status)
        self.send_header("Content-Type", page.media_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        self.wfile.write(page.body)

    def log_message(self, *_: object) -> None:
        """Nothing: probes come every few seconds."""
