"""Very many clients at once: is each answered, and rightly, and is everything there afterwards?

Each client has a thread and a connection of its own, no time-out, and sends one photograph in the
field ``inputFile`` in the same moment as all others. No two images have the same bytes. An answer
counts where it is a 200 with the image's own name and a label that is right for its photograph.
Afterwards the output bucket must hold the text of each image, and the job queue and its dead
letters nothing.

The tier, its worker, the emulated AWS and all clients share the machine's cores: the seconds say
how long a burst takes here, not on AWS.
"""

from __future__ import annotations

import http.client
import io
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from http_peers.load import form
from http_service import Serving, ours
from PIL import Image
from reporting import Goal, arguments, report

from cis_tasks.local.cloud import Cloud, QueueCounts
from cis_tasks.local.demo_image import installed

CLIENTS, QUICK_CLIENTS = 1_000, 100
EMPTY_S = 120.0
READERS = 8
PHOTOS: Mapping[str, frozenset[str]] = {
    "chelsea.png": frozenset({"tiger cat", "tabby", "Egyptian cat"}),
    "coffee.png": frozenset({"espresso"}),
    "camera.png": frozenset({"tripod"}),
    "motorcycle_left.png": frozenset({"moped"}),
    "rocket.jpg": frozenset({"missile"}),
    "china.jpg": frozenset({"palace"}),
    "flower.jpg": frozenset({"daisy"}),
}
"""Photograph of `cis demo image` → labels that are right for it."""

COLUMNS = ["clients", "right", "in the bucket", "left in queues", "s", "req/s", "p50 p95 max s"]


@dataclass(frozen=True)
class Sent:
    """An image that a client sends.

    Attributes:
        stem: its name, which no other image has.
        data: its bytes, which no other image has.
        labels: those that are right for it.
    """

    stem: str
    data: bytes
    labels: frozenset[str]


@dataclass(frozen=True)
class Answered:
    """What a client got.

    Attributes:
        status: of HTTP; 0 where the connection broke.
        text: of the answer.
        seconds: from the connection to the answer.
    """

    status: int
    text: str
    seconds: float


@dataclass(frozen=True)
class Found:
    """What became of a burst.

    Attributes:
        sent: the images.
        answers: what their clients got, in the same order.
        texts: names of the images whose text is in the output bucket, and right.
        left: messages that are left in the job queue and its dead letters.
        elapsed_s: from the first connection to the last answer.
    """

    sent: Sequence[Sent]
    answers: Sequence[Answered]
    texts: frozenset[str]
    left: int
    elapsed_s: float

    @property
    def wrong(self) -> list[str]:
        """Answers that are not 200 and right for their own image."""
        return [
            f"{image.stem}: {answer.status} {answer.text[:80]!r}"
            for image, answer in zip(self.sent, self.answers, strict=True)
            if answer.status != 200 or not is_right(image, answer.text)
        ]


def is_right(image: Sent, text: str) -> bool:
    """Whether an answer is the image's own."""
    stem, _, label = text.partition(":")
    return stem == image.stem and label in image.labels


def images(count: int) -> list[Sent]:
    """Photographs in turn, each with a comment of its own."""
    opened = {name: _open(name) for name in PHOTOS}
    names = list(PHOTOS)
    found = []
    for number in range(count):
        name, made = names[number % len(names)], io.BytesIO()
        opened[name].save(made, "JPEG", quality=85, comment=f"copy {number}".encode())
        found.append(Sent(f"test_{number:04}", made.getvalue(), PHOTOS[name]))
    return found


def _open(name: str) -> Image.Image:
    [path] = [path for path in installed() if path.name == name]
    with Image.open(path) as image:
        picture = image.convert("RGB")
        picture.thumbnail((500, 500))
        return picture


def burst(url: str, sent: Sequence[Sent]) -> tuple[list[Answered], float]:
    """All images at once, one client each: their answers, and how long it took."""
    answers: dict[str, Answered] = {}
    together = threading.Barrier(len(sent) + 1)

    def client(image: Sent) -> None:
        together.wait()
        answers[image.stem] = _post(url, image)

    threads = [threading.Thread(target=client, args=[image]) for image in sent]
    for thread in threads:
        thread.start()
    together.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return [answers[image.stem] for image in sent], time.perf_counter() - started


def _post(url: str, image: Sent) -> Answered:
    where, started = urlsplit(url), time.perf_counter()
    body, headers = form(image.data, "inputFile", f"{image.stem}.jpg")
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    try:
        connection.request("POST", where.path, body, headers)
        answer = connection.getresponse()
        status, text = answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        status, text = 0, repr(error)
    finally:
        connection.close()
    return Answered(status, text, time.perf_counter() - started)


def stored(cloud: Cloud, sent: Sequence[Sent]) -> frozenset[str]:
    """Which images have their text in the output bucket, once, with a label that is right."""
    s3, bucket = cloud.client("s3"), cloud.stack.output_bucket
    expected = {image.stem: image for image in sent}
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="image/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    texts = [key for key in keys if key.endswith(".txt") and _stem(key) in expected]

    def is_whole(key: str) -> bool:
        text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        image = expected[_stem(key)]
        return text in {f"({image.stem}.jpg, {label})\n" for label in image.labels}

    with ThreadPoolExecutor(READERS) as readers:
        whole = [
            _stem(key)
            for key, right in zip(texts, readers.map(is_whole, texts), strict=True)
            if right
        ]
    return frozenset(stem for stem in whole if whole.count(stem) == 1)


def _stem(key: str) -> str:
    return Path(key).stem


def left(cloud: Cloud) -> int:
    """Messages in the job queue and its dead letters, once they are none or time is over."""
    deadline = time.monotonic() + EMPTY_S
    while (counts := cloud.queue_counts()["image"]) != QueueCounts(0, 0, 0):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return counts.waiting + counts.running + counts.dead


def measure(clients: int) -> Found:
    """One burst at a tier of its own."""
    sent = images(clients)
    with tempfile.TemporaryDirectory() as folder, ours(Path(folder)) as serving:
        cloud = _cloud_of(serving)
        answers, elapsed_s = burst(serving.url, sent)
        return Found(sent, answers, stored(cloud, sent), left(cloud), elapsed_s)


def _cloud_of(serving: Serving) -> Cloud:
    if serving.cloud is None:
        raise TypeError("ours has a cloud")
    return serving.cloud


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=int, help=f"{CLIENTS}; quick: {QUICK_CLIENTS}")
    given = parser.parse_args()
    clients = given.clients or (QUICK_CLIENTS if given.quick else CLIENTS)
    found = measure(clients)
    right = clients - len(found.wrong)
    seconds = sorted(answer.seconds for answer in found.answers)
    shares = [seconds[min(clients - 1, int(share * clients))] for share in (0.5, 0.95, 1.0)]
    row = [
        *(str(clients), str(right), str(len(found.texts)), str(found.left)),
        *(f"{found.elapsed_s:.1f}", f"{clients / found.elapsed_s:.1f}"),
        " ".join(f"{share:.1f}" for share in shares),
    ]
    figures = {
        "clients": clients,
        "right": right,
        "wrong": found.wrong[:20],
        "in_the_bucket": len(found.texts),
        "left_in_queues": found.left,
        "elapsed_s": found.elapsed_s,
        **dict(zip(("p50_s", "p95_s", "max_s"), shares, strict=True)),
    }
    goals = [
        Goal("answers that are 200 and right", right, clients, right == clients),
        Goal("texts in the bucket", len(found.texts), clients, len(found.texts) == clients),
        Goal.at_most("messages left in queues", found.left, 0),
    ]
    report("Clients at once", COLUMNS, [row], figures=figures, goals=goals, as_json=given.as_json)
    if found.wrong and not given.as_json:
        print("\n".join(found.wrong[:20]))


if __name__ == "__main__":
    main()
