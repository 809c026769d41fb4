"""A closed loop of clients, each with a connection of its own."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BOUNDARY = "----------------------------benchmark"


@dataclass
class Load:
    """What a number of clients got in a time.

    Attributes:
        seconds: from each answer's request to the answer.
        wrong: answers that were not 200 with the label.
        elapsed_s: how long it took.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0

    def percentile_ms(self, share: float) -> float:
        """How long that share of the answers took at most."""
        if not self.seconds:
            return float("nan")
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.elapsed_s


def form(
    image: bytes, field: str = "myfile", filename: str = "a.jpg"
) -> tuple[bytes, dict[str, str]]:
    """A body with the image in a field of that name, and its headers."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def ask(connection: http.client.HTTPConnection, path: str, image: bytes) -> tuple[int, str]:
    """One image's answer."""
    body, headers = form(image)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


def run(url: str, image: bytes, label: str, clients: int, longest_s: float) -> Load:
    """Let ``clients`` ask one after the other until the time is over."""
    where, load = urlsplit(url), Load()
    started = time.perf_counter()

    def client() -> None:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=600)
        while time.perf_counter() - started < longest_s:
            asked = time.perf_counter()
            status, text = ask(connection, where.path, image)
            if status == 200 and label in text:
                load.seconds.append(time.perf_counter() - asked)
            else:
                load.wrong.append(f"{status} {text[:80]}")
                time.sleep(0.1)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.elapsed_s = time.perf_counter() - started
    return load
