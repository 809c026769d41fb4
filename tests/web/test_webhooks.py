"""Webhooks: signed, tried again, and never sent inside."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from running import SECRET, Running, image_worker, web_tier
from telling_model import label_of, picture

from cis_tasks.local.cloud import QueueCounts
from cis_tasks.web.outbound import Refused, is_public, parse_target, post
from support.cloud import MakeCloud, eventually


class Receiver(ThreadingHTTPServer):
    """Refuses the first request, takes the others, and keeps all."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taker)
        self.got: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?a=1"


class Taker(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.got.append((headers, body))
        self.send_response(500 if len(self.server.got) == 1 else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_jobs_end_is_told_signed_and_again_until_it_is_taken(
    tier: Running, client: httpx.Client, receiver: Receiver
) -> None:
    image = picture(70)
    posted = client.post(
        "/v1/images", params={"webhook": receiver.url}, files={"image": ("h.png", image)}
    )
    assert posted.status_code == 202
    eventually(lambda: len(receiver.got) == 2)
    (first, body), (second, _) = receiver.got
    assert first["webhook-id"] == second["webhook-id"]
    told = json.loads(body)
    assert told["type"] == "job.ended"
    assert told["data"]["job_id"] == posted.json()["job_id"]
    assert told["data"]["result"]["label"] == label_of(image)
    signed = f"{first['webhook-id']}.{first['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert first["webhook-signature"] == f"v1,{expected}"
    output = tier.cloud.stack.output_bucket
    eventually(lambda: not tier.keys("celery/web/webhooks/", output))


def test_a_killed_processs_webhook_is_delivered_by_another(
    make_cloud: MakeCloud, receiver: Receiver, tmp_path: Path
) -> None:
    def one_more_tier() -> AbstractContextManager[Running]:
        return web_tier(
            cloud,
            tmp_path,
            webhook_secret=SECRET,
            webhook_private=1,
            webhook_backoff_s=0.2,
            webhook_lease_s=3,
        )

    with make_cloud() as cloud, one_more_tier() as first:
        image = picture(71)
        with first.client() as client:
            posted = client.post(
                "/v1/images", params={"webhook": receiver.url}, files={"image": ("k.png", image)}
            )
        first.process.kill()
        output = cloud.stack.output_bucket
        assert len(first.keys("celery/web/webhooks/", output)) == 1
        with image_worker(cloud, tmp_path):
            eventually(lambda: cloud.queue_counts()["image"] == QueueCounts(0, 0, 0))
        assert receiver.got == []
        with one_more_tier() as second:
            eventually(lambda: not second.keys("celery/web/webhooks/", output))
    (first_try, body), (second_try, _) = receiver.got
    assert first_try["webhook-id"] == second_try["webhook-id"]
    told = json.loads(body)["data"]
    assert (told["job_id"], told["status"]) == (posted.json()["job_id"], "succeeded")
    assert told["result"]["label"] == label_of(image)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "ftp://example.com/hook",
        "https:///hook",
        "https://user:secret@example.com/",
        "https://127.0.0.1/",
        "https://10.1.2.3:8443/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://example.com/a b",
        "https://example.com:99999/",
    ],
)
def test_urls_that_lead_inside_or_nowhere_are_refused(url: str) -> None:
    with pytest.raises(Refused):
        parse_target(url)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("2002:7f00:0001::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_public_is_what_is_open_to_the_internet(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_name_is_resolved_once_and_every_address_checked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that turns inside at its second resolution, or has one address inside."""
    asked: list[str] = []
    lead = {"addresses": ["93.184.216.34", "127.0.0.1"]}

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in lead["addresses"]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    target = parse_target("https://rebinding.example/")
    with pytest.raises(Refused, match=r"127\.0\.0\.1"):
        post(target, b"{}", {})
    connected: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        connected.append(address)
        raise OSError("no further")

    lead["addresses"] = ["93.184.216.34"]
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(OSError, match="no further"):
        post(target, b"{}", {})
    assert connected == [("93.184.216.34", 443)]
    assert asked == ["rebinding.example"] * 2


def test_what_is_no_url_is_refused(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/images", params={"webhook": "no url"}, files={"image": ("a.png", picture(1))}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "webhook_refused")
