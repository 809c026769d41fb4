"""The public workload clients: one multipart POST per image from as many threads, no time-out."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

BOUNDARY = "------------------------0123456789abcdef"


@dataclass(frozen=True)
class Answered:
    """One image's answer.

    Attributes:
        filename: what was sent.
        status: HTTP status; 0 where there was no answer.
        text: body of the answer.
        seconds: how long it took.
    """

    filename: str
    status: int
    text: str
    seconds: float


def send_all(url: str, field: str, images: Sequence[tuple[str, bytes]]) -> list[Answered]:
    """Send all images at once, each from a thread and connection of its own."""
    answers: list[Answered] = []
    ready = threading.Barrier(len(images))

    def send(filename: str, data: bytes) -> None:
        ready.wait()
        started = time.perf_counter()
        try:
            status, text = post(url, field, filename, data)
        except OSError as error:
            status, text = 0, repr(error)
        answers.append(Answered(filename, status, text, time.perf_counter() - started))

    threads = [threading.Thread(target=send, args=image) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def post(url: str, field: str, filename: str, data: bytes) -> tuple[int, str]:
    """One multipart POST on a connection of its own; status and text of the answer."""
    where = urlsplit(url)
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"'
        "\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    try:
        connection.request("POST", where.path, body, kind)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except http.client.HTTPException as error:
        raise OSError(repr(error)) from error
    finally:
        connection.close()
