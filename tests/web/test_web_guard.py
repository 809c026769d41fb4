"""Who may use the tier: tokens, loopback, rates, and no page of another site."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from running import Running, environment_of, web_tier

from cis_tasks.web.limits import RateLimit
from cis_tasks.web.settings import WebSettings
from cis_tasks.web.tokens import find_token, make_token, parse_tokens
from support.cloud import MakeCloud


@pytest.fixture(scope="module")
def guarded(
    make_cloud: MakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, str]]:
    folder = tmp_path_factory.mktemp("guard")
    text, token = make_token("lab-1")
    file = folder / "tokens"
    file.write_text(f"# who may\n{token.line}\n{make_token('lab-2')[1].line}\n")
    with (
        make_cloud() as cloud,
        web_tier(cloud, folder, tokens_file=file, rate_per_s=0.01, rate_burst=12) as tier,
    ):
        yield tier, text


def test_with_tokens_nobody_else_gets_in(guarded: tuple[Running, str]) -> None:
    tier, text = guarded
    with tier.client() as client:
        refused = client.get("/v1/jobs")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/v1/jobs", headers={"Authorization": "Bearer no"}).status_code == 401
        assert client.post("/", files={"myfile": ("a.png", b"x")}).status_code == 401
        assert client.get("/healthz").status_code == 200
        assert client.get("/").status_code == 200  # the page asks for a token itself
        given = {"Authorization": f"Bearer {text}"}
        assert client.get("/v1/jobs", headers=given).status_code == 200
        assert client.get("/v1/jobs", auth=("anybody", text)).status_code == 200
    assert text not in tier.log
    assert "lab-1" in tier.log


def test_one_token_cannot_ask_without_end(guarded: tuple[Running, str]) -> None:
    tier, text = guarded
    with tier.client(headers={"Authorization": f"Bearer {text}"}) as client:
        answers = [client.get("/metrics") for _ in range(14)]
    assert answers[-1].status_code == 429
    assert answers[-1].json()["code"] == "too_many_requests"
    assert int(answers[-1].headers["retry-after"]) > 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "rebound.example"},
    ],
)
def test_pages_of_other_sites_do_not_get_in(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post("/v1/images", files={"image": ("a.png", b"x")}, headers=headers)
    assert answer.status_code == 403


def test_it_does_not_listen_to_the_world_without_tokens(guarded: tuple[Running, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cis_tasks", "web", "--host", "0.0.0.0", "--port", "0"],
        env=environment_of(guarded[0].cloud),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "CIS_WEB_TOKENS_FILE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_may_be_open(host: str) -> None:
    assert WebSettings(host=host).on_loopback


@pytest.mark.parametrize("text", ["", "# nothing\n", "name only\n", "a " + "f" * 63])
def test_a_file_without_good_tokens_does_not_open_the_tier(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(ValidationError, match="token"):
        WebSettings(tokens_file=tmp_path / "tokens")


def test_a_token_is_kept_as_its_hash_alone() -> None:
    text, token = make_token("me")
    assert text not in token.line
    [read] = parse_tokens(token.line, "here")
    assert find_token([read], text) == token
    assert find_token([read], text + "x") is None


def test_the_bucket_of_a_rate_fills_again() -> None:
    now = 0.0
    limit = RateLimit(per_s=2, burst=3, clock=lambda: now)
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert limit.take("b") == 0
    now = 0.5
    assert limit.take("a") == 0
    assert limit.take("a") == 0.5


def test_every_answer_carries_the_security_headers(client: httpx.Client) -> None:
    for path in ("/", "/v1/jobs", "/nowhere", "/static/page.js"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
