"""What a tier of two processes tells Prometheus and CloudWatch, and whom it tells."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from dataclasses import dataclass

import httpx
import pytest
from running import Running, web_tier
from telling_model import picture

from broker.faults import faulty
from cis_tasks.local.emulator import free_port
from cis_tasks.web.tokens import make_token
from support.cloud import MakeCloud

NAME = "Jürgen-M"
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
JOB = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Told:
    """What the tier told, after a few requests of each kind."""

    pages: list[str]
    lines: list[dict[str, object]]
    statuses: Counter[int]
    without_token: int

    def samples(self, name: str, **labels: str) -> float:
        """Sum over processes of the samples that have these labels."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        return sum(
            float(value)
            for page in self.pages
            for found, given, value in SAMPLE.findall(page)
            if found == name and wanted <= set(given.split(","))
        )

    def sum(self, metric: str) -> float:
        """Sum of a metric over the lines for CloudWatch."""
        return sum(float(str(line.get(metric, 0))) for line in self.lines)


@pytest.fixture(scope="module")
def told(make_cloud: MakeCloud, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder, port = tmp_path_factory.mktemp("metrics"), two_free_ports()
    token, made = make_token("alice")
    tokens = folder / "tokens"
    tokens.write_text(made.line + "\n")
    headers = {"Authorization": f"Bearer {token}"}
    with (
        pytest.MonkeyPatch.context() as patch,
        make_cloud() as cloud,
        faulty(cloud.endpoint) as aws,
    ):
        patch.setenv("CIS_EMF", "1")
        with web_tier(
            cloud,
            folder,
            endpoint=aws.url,
            processes=2,
            metrics_port=port,
            tokens_file=tokens,
            rate_burst=12,
            rate_per_s=0.001,
        ) as tier:
            without_token = tier.client().get("/metrics").status_code
            with tier.client(headers=headers) as client:
                statuses = ask(client)
                aws.fault = lambda operation: "500" if operation == "SendMessageBatch" else None
                statuses += Counter([post(client)])
                aws.fault = lambda _operation: None
                while 429 not in statuses:
                    statuses[client.get(f"/v1/jobs/{JOB}").status_code] += 1
            pages = [page_of(port + number) for number in range(2)]
            tier.process.stop(30)
            lines = lines_of(tier)
    return Told(pages, lines, statuses, without_token)


def two_free_ports() -> int:
    """The first of two ports in a row."""
    while True:
        first = free_port()
        with socket.socket() as second:
            try:
                second.bind(("127.0.0.1", first + 1))
            except (OSError, OverflowError):
                continue
        return first


def ask(client: httpx.Client) -> Counter[int]:
    """One image, three questions about jobs that there are not, one path that there is not."""
    answers = [client.get(f"/v1/jobs/{JOB}").status_code for _ in range(3)]
    return Counter([post(client), *answers, client.get(f"/{NAME}").status_code])


def post(client: httpx.Client) -> int:
    files = {"image": (f"{NAME}.png", picture(1))}
    return client.post("/v1/images", params={"wait": 0.1}, files=files).status_code


def page_of(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text


def lines_of(tier: Running) -> list[dict[str, object]]:
    return [json.loads(line) for line in tier.log.splitlines() if line.startswith('{"_aws"')]


def test_requests_are_counted_by_route_and_status(told: Told) -> None:
    assert told.statuses[202] == 1
    for status in (202, 503):
        labels = {"method": "POST", "route": "/v1/images", "status": str(status)}
        assert told.samples("cis_web_requests_total", **labels) == 1
    asked = {"method": "GET", "route": "/v1/jobs/{job_id}"}
    for status in (404, 429):
        labels = {**asked, "status": str(status)}
        assert told.samples("cis_web_requests_total", **labels) == told.statuses[status] - (
            status == 404  # one of these was for a path that nobody knows
        )
    assert told.samples("cis_web_requests_total", route="other", status="404") == 1
    assert told.samples("cis_web_request_seconds_count", route="/v1/images") == 2


def test_refusals_publications_and_failures_of_aws_are_counted(told: Told) -> None:
    assert told.samples("cis_web_refused_total") == told.statuses[429]
    assert told.samples("cis_web_published_total") == 2
    assert told.samples("cis_web_waiting") == 0
    assert told.samples("cis_aws_failures_total", call="sqs.SendMessageBatch") >= 1
    assert told.samples("cis_aws_failures_total", call="s3.PutObject") == 0
    assert told.samples("cis_aws_calls_total", call="s3.PutObject") >= 2


def test_the_public_port_tells_nobody_without_a_token(told: Told) -> None:
    assert told.without_token == 401


def test_cloudwatch_gets_the_same_sums_in_lines_of_the_log(told: Told) -> None:
    assert told.sum("Refused") == told.statuses[429]
    assert told.sum("ServerErrors") == told.statuses[503]
    assert told.sum("Requests") >= told.statuses.total()
    seconds = [line["RequestSeconds"] for line in told.lines if "RequestSeconds" in line]
    assert all(isinstance(each, list) and 0 < len(each) <= 100 for each in seconds)
    assert sum(map(len, seconds)) == told.sum("Requests")  # fewer than a sample has room for
    assert told.sum("AwsFailures") >= 1


def test_no_name_is_in_any_of_it(told: Told) -> None:
    everything = "".join(told.pages) + json.dumps(told.lines, ensure_ascii=False)
    assert "cis_web_requests_total" in everything
    for name in (NAME, "alice", JOB, "%C3%BC"):
        assert name not in everything
