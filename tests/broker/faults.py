"""An AWS endpoint that fails on demand, in front of one that does not."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[[str], str | None]
"""Given an operation such as ReceiveMessage, says what happens: None lets it pass; "500", "403",
"garbage" or a JSON text are answered instead; "drop" closes the connection, "hang" keeps it open;
"lost" lets it pass and loses the answer."""


class Faulty:
    """The endpoint.

    Attributes:
        fault: what goes wrong from now on.
        calls: how often each operation was asked for.
        entries: how many entries its batches had in all.
    """

    def __init__(self, behind: str) -> None:
        self.fault: Fault = lambda _operation: None
        self.calls: Counter[str] = Counter()
        self.entries: Counter[str] = Counter()
        self.ended = threading.Event()
        self.behind = urllib.parse.urlsplit(behind)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.server.daemon_threads = True

    def count(self, operation: str, body: bytes) -> None:
        self.calls[operation] += 1
        if operation.endswith("Batch"):
            self.entries[operation] += len(json.loads(body)["Entries"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def faulty(behind: str) -> Iterator[Faulty]:
    endpoint = Faulty(behind)
    thread = threading.Thread(target=endpoint.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.ended.set()
        endpoint.server.shutdown()
        endpoint.server.server_close()
        thread.join()


OF_THE_CONNECTION = {"connection", "content-length", "date", "server", "transfer-encoding"}
ANSWERS = {
    "500": (500, b'{"__type":"InternalError","message":"injected"}'),
    "403": (403, b'{"__type":"AccessDenied","message":"injected"}'),
    "garbage": (200, b"<html>not what you asked for</html>"),
}


def handler_of(endpoint: Faulty) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            operation = operation_of(self.headers.get("X-Amz-Target", ""), body)
            endpoint.count(operation, body)
            self.passed = [("Content-Type", "application/json")]  # of this answer alone
            fault = endpoint.fault(operation)
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "hang":
                endpoint.ended.wait()
                return
            if fault is not None and fault.startswith("{"):
                self.answer(200, fault.encode())
                return
            if fault in ANSWERS:
                self.answer(*ANSWERS[fault])
                return
            status, answer = self.forward(body)
            if fault == "lost":
                self.close_connection = True
                return
            self.answer(status, answer)

        do_GET = do_PUT = do_DELETE = do_HEAD = do_POST  # noqa: N815  http.server's names

        def forward(self, body: bytes) -> tuple[int, bytes]:
            behind = endpoint.behind
            connection = http.client.HTTPConnection(behind.hostname or "", behind.port, timeout=60)
            try:
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                self.passed = passed_on(response)
                return response.status, response.read()
            finally:
                connection.close()

        def answer(self, status: int, body: bytes) -> None:
            with contextlib.suppress(ConnectionError):  # a killed worker does not listen
                self.send_response(status)
                send_headers(self, [*self.passed, ("Content-Length", str(len(body)))])
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def operation_of(target: str, body: bytes) -> str:
    """What is asked for, of SQS or, in AWS's older protocol, of SNS; empty for S3."""
    if not target and body.startswith(b"Action="):
        return body.removeprefix(b"Action=").partition(b"&")[0].decode()
    return target.rpartition(".")[2]


def passed_on(response: http.client.HTTPResponse) -> list[tuple[str, str]]:
    return [(n, value) for n, value in response.getheaders() if n.lower() not in OF_THE_CONNECTION]


def send_headers(handler: BaseHTTPRequestHandler, headers: list[tuple[str, str]]) -> None:
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
