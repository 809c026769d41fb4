"""Everything that is not one good image: refused clearly, with nothing left behind."""

from __future__ import annotations

import io
import socket
import struct
import zlib
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from running import Running
from telling_model import label_of, picture

from support.cloud import eventually

Files = list[tuple[str, tuple[str, bytes]]]


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, and that has hardly anything else."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def gif_bomb() -> bytes:
    """A GIF of a few bytes that claims 65,535 × 65,535 pixels."""
    screen = struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
    frame = struct.pack("<BHHHHB", 0x2C, 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + screen + frame + b"\x3b"


def one(data: bytes, name: str = "a.png", field: str = "image") -> Files:
    return [(field, (name, data))]


REFUSED: Mapping[str, tuple[Files, int, str]] = {
    "text": (one(b"hello", "a.jpg"), 415, "not_an_image"),
    "html": (one(b"<html><script>alert(1)</script>", "a.png"), 415, "not_an_image"),
    "0 bytes": (one(b""), 400, "file_empty"),
    "26 MiB": (one(picture(1) + b"\0" * (26 << 20)), 413, "image_too_large"),
    "a huge PNG": (one(huge_png(50_000, 50_000)), 413, "image_too_many_pixels"),
    "a GIF bomb": (one(gif_bomb(), "a.gif"), 413, "image_too_many_pixels"),
    "two files": (one(picture(1)) + one(picture(2)), 400, "two_files"),
    "another field": (one(picture(1), field="photo"), 400, "field_unknown"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_image_is_refused_and_nothing_is_left_of_it(
    tier: Running, client: httpx.Client, what: str
) -> None:
    files, status, code = REFUSED[what]
    before = set(tier.keys("images/"))
    answer = client.post("/v1/images", params={"wait": 60}, files=files)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert set(tier.keys("images/")) == before
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("what", REFUSED)
def test_the_plain_dialects_say_it_in_one_line(client: httpx.Client, what: str) -> None:
    files, status, _ = REFUSED[what]
    named = [("myfile" if field == "image" else field, file) for field, file in files]
    answer = client.post("/postApi/image", files=named)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/plain")
    assert len(answer.text.splitlines()) == 1


def test_no_file_at_all_is_said_to_be_missing(client: httpx.Client) -> None:
    field = {"myfile": (None, "just text")}
    assert "no file" in client.post("/", files=field).text
    assert client.post("/", data={"a": "b"}).status_code == 415
    assert client.post("/").status_code == 415


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_image_is_refused_by_its_worker(client: httpx.Client, kind: str) -> None:
    made = io.BytesIO()
    Image.effect_noise((200, 200), 80).save(made, kind)
    cut = made.getvalue()[: len(made.getvalue()) // 2]
    answer = client.post("/v1/images", params={"wait": 60}, files={"image": ("cut.jpg", cut)})
    assert answer.status_code == 422
    assert answer.json()["code"] == "image_truncated"
    job = client.get(answer.json()["instance"]).json()
    assert (job["status"], job["error"]["code"]) == ("failed", "image_truncated")


@pytest.mark.parametrize(
    ("sent", "stem"),
    [
        ("../../etc/passwd.png", "passwd"),
        ("C:\\photos\\my cat.JPEG", "my cat"),
        ("猫と犬 é.png", "猫と犬 é"),
        ("a\u202etxt.png", "atxt"),
        ("..", "image"),
        ("x" * 300 + ".png", "x" * 120),
        ("50%+1&a=b.png", "50%+1&a=b"),
    ],
)
def test_names_are_kept_as_far_as_they_are_names(
    tier: Running, client: httpx.Client, sent: str, stem: str
) -> None:
    image = picture(4)
    answer = client.post("/", files={"inputFile": (sent, image)})
    assert answer.text == f"{stem}:{label_of(image)}"
    found = [key for key in tier.keys("images/") if key.split("/")[2].startswith(stem)]
    assert found
    assert all(key.count("/") == 2 for key in found)


def test_200_mb_are_refused_before_they_are_read(tier: Running) -> None:
    head = (
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        "Content-Length: 200000000\r\n\r\n"
    )
    with connected(tier, head) as connection:
        assert connection.recv(15) == b"HTTP/1.1 413 Re"


def test_a_body_without_a_length_is_cut_at_the_limit(client: httpx.Client) -> None:
    def endless() -> object:
        yield b'--x\r\nContent-Disposition: form-data; name="myfile"; filename="a.png"\r\n\r\n'
        for _ in range(27):
            yield picture(1) + b"\0" * (1 << 20)

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        status = client.post("/", content=endless(), headers=kind).status_code
    except httpx.WriteError:  # it was cut off as it still sent
        status = 413
    assert status == 413


def test_a_slow_client_is_not_waited_for(tier: Running) -> None:
    head = (
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        "Content-Length: 5000\r\n\r\n--x\r\n"
    )
    with connected(tier, head) as connection:
        connection.settimeout(60)
        assert connection.recv(12) == b"HTTP/1.1 408"


def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    tier: Running, client: httpx.Client
) -> None:
    before = set(tier.keys("images/"))
    head = (
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        "X-Request-ID: left-in-the-middle\r\nContent-Length: 5000\r\n\r\n--x\r\n"
    )
    with connected(tier, head):
        pass
    eventually(lambda: "left-in-the-middle" in tier.log)
    assert set(tier.keys("images/")) == before
    figures = client.get("/metrics").text
    assert "cis_web_held_bytes 0.0\n" in figures
    assert "cis_web_waiting 0.0\n" in figures


@pytest.mark.parametrize(
    "body",
    [
        b"no boundary at all",
        b'--x\r\nContent-Disposition: form-data; name="myfile"; filename="a.png"\r\n\r\ncut off',
        b"--x\r\n" + b"A: " + b"a" * 20_000,
        b"--x--\r\n",
    ],
)
def test_a_malformed_body_is_refused(client: httpx.Client, body: bytes) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/", content=body, headers=kind).status_code == 400


def connected(tier: Running, head: str) -> socket.socket:
    """A connection over which ``head`` has been sent."""
    where = urlsplit(tier.url)
    connection = socket.create_connection((where.hostname, where.port), timeout=120)
    connection.sendall(head.format(host=where.netloc).encode())
    return connection
