"""S3 or SQS down at each step, too many clients, none left: what the tier says, and what stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running import Running, image_worker, web_tier
from telling_model import label_of, picture

from broker.faults import Faulty, faulty
from cis_tasks.local.cloud import QueueCounts
from support.cloud import MakeCloud, eventually

IMAGE = {"image": ("a.png", picture(50))}


@pytest.fixture(scope="module")
def faults_and_tier(
    make_cloud: MakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Faulty, Running]]:
    """A tier with a short deadline, room for two, no worker, and an AWS that can fail."""
    folder = tmp_path_factory.mktemp("outages")
    with (
        make_cloud() as cloud,
        faulty(cloud.endpoint) as aws,
        web_tier(cloud, folder, endpoint=aws.url, max_waiting=2, deadline_s=3) as tier,
    ):
        yield aws, tier


@pytest.fixture
def aws(faults_and_tier: tuple[Faulty, Running]) -> Iterator[Faulty]:
    yield faults_and_tier[0]
    faults_and_tier[0].fault = lambda _operation: None


@pytest.fixture
def lonely(faults_and_tier: tuple[Faulty, Running]) -> Running:
    return faults_and_tier[1]


@pytest.mark.parametrize(("step", "how"), [("", "drop"), ("SendMessageBatch", "500")])
def test_an_outage_is_a_503_that_leaves_nothing(
    aws: Faulty, lonely: Running, step: str, how: str
) -> None:
    before = set(lonely.keys("images/"))
    dead = lonely.cloud.queue_counts()["image"]
    aws.fault = lambda operation: how if operation == step else None
    with lonely.client() as client:
        answer = client.post("/v1/images", params={"wait": 1}, files=IMAGE)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["code"] in {"s3_unavailable", "publish_failed"}
        plain = client.post("/", files={"myfile": IMAGE["image"]})
        assert (plain.status_code, len(plain.text.splitlines())) == (503, 1)
        if step == "":
            unknown = client.get("/v1/jobs/00000000-0000-0000-0000-000000000000")
            assert (unknown.status_code, unknown.json()["code"]) == (503, "aws_unavailable")
        aws.fault = lambda _operation: None
        assert client.post("/v1/images", params={"wait": 0.1}, files=IMAGE).status_code == 202
    assert len(set(lonely.keys("images/")) - before) == 1
    assert dead.dead == lonely.cloud.queue_counts()["image"].dead


def test_a_cancellation_that_an_outage_interrupts_is_done_when_it_is_sent_again(
    aws: Faulty, lonely: Running
) -> None:
    with lonely.client() as client:
        job = client.post("/v1/images", files={"image": ("c.png", picture(53))}).json()
        # SNS, through which workers are told once the record is written
        aws.fault = lambda operation: "500" if operation == "Publish" else None
        interrupted = client.delete(job["links"]["self"])
        assert interrupted.status_code == 503, interrupted.text
        assert int(interrupted.headers["retry-after"]) >= 1
        assert aws.calls["Publish"] > 0
        aws.fault = lambda _operation: None
        assert client.delete(job["links"]["self"]).json()["status"] == "cancelled"
        assert client.get(job["links"]["self"]).json()["status"] == "cancelled"


def test_beyond_its_room_it_says_when_to_come_back(lonely: Running) -> None:
    statuses: list[int] = []

    def send() -> None:
        with lonely.client() as client:
            statuses.append(client.post("/", files={"myfile": IMAGE["image"]}).status_code)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    with lonely.client() as client:
        eventually(lambda: "cis_web_waiting 2.0\n" in client.get("/metrics").text)
        refused = client.post("/", files={"myfile": IMAGE["image"]})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    for thread in threads:
        thread.join()
    assert statuses == [504, 504]


def test_a_deadline_names_the_job_which_goes_on(lonely: Running, tmp_path: Path) -> None:
    image = picture(51)
    with lonely.client() as client:
        answer = client.post("/", files={"myfile": ("late.png", image)})
        assert answer.status_code == 504
        path = answer.text.split()[-1]
        assert client.get(path).json()["status"] == "queued"
        with image_worker(lonely.cloud, tmp_path):
            ended = eventually(lambda: _ended(client, path), 120)
            assert ended["result"]["label"] == label_of(image)
            eventually(lambda: lonely.cloud.queue_counts()["image"] == QueueCounts(0, 0, 0), 120)


def test_a_client_that_goes_takes_its_unstarted_job_along(lonely: Running, tmp_path: Path) -> None:
    before = set(lonely.keys("images/"))
    with (
        lonely.client(timeout=httpx.Timeout(30, read=1)) as impatient,
        pytest.raises(httpx.ReadTimeout),
    ):
        impatient.post(
            "/v1/images", params={"wait": 60}, files={"image": ("gone.png", picture(52))}
        )
    eventually(lambda: set(lonely.keys("images/")) == before)
    [line] = [line for line in lonely.log.splitlines() if "client_gone" in line]
    assert "cancelled=true" in line.lower()


def _ended(client: httpx.Client, path: str) -> dict[str, object] | None:
    job = client.get(path).json()
    return job if job["status"] == "succeeded" else None
