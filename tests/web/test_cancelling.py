"""A job that nobody wants any more is not run, whenever a worker comes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from running import Running, image_worker, web_tier
from telling_model import label_of, picture

from cis_tasks.local.cloud import Cloud, QueueCounts
from cis_tasks.local.workers import Worker
from support.cloud import MakeCloud, eventually
from support.sessions import cis, cis_json

JOB = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def cloud_and_tier(
    make_cloud: MakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Cloud, Running]]:
    """A tier that no worker works for, unless a test starts one."""
    with make_cloud() as cloud, web_tier(cloud, tmp_path_factory.mktemp("cancelling")) as tier:
        yield cloud, tier


@pytest.fixture
def lonely(cloud_and_tier: tuple[Cloud, Running]) -> Running:
    return cloud_and_tier[1]


def test_a_job_that_was_cancelled_is_not_run_by_a_worker_that_comes_later(
    lonely: Running, tmp_path: Path
) -> None:
    with lonely.client() as client:
        over_http, on_the_terminal, kept = (
            posted(client, f"{name}.png", picture(seed)).json()
            for name, seed in (("over http", 80), ("on the terminal", 81), ("kept", 82))
        )
        answer = client.delete(over_http["links"]["self"])
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        cis("cancel", on_the_terminal["job_id"])
        cancelled = (over_http, on_the_terminal)
        assert {status(client, job) for job in cancelled} == {"cancelled"}
        with late_worker(lonely, tmp_path) as worker:
            eventually(lambda: status(client, kept) == "succeeded")
            eventually(lambda: lonely.cloud.queue_counts()["image"] == QueueCounts(0, 0, 0))
            log = worker.log.read_text()
        assert all(f"{job['job_id']}] received" in log for job in cancelled)
        for job in cancelled:
            assert files_of(lonely, job["job_id"]) == ["manifest.json"]
            assert client.delete(job["links"]["self"]).json()["status"] == "cancelled"
            assert cis_json("status", job["job_id"])["phase"] == "cancelled"
        assert files_of(lonely, kept["job_id"]) == ["kept.txt", "manifest.json"]


def test_the_job_of_a_client_that_left_is_not_run_by_a_worker_that_comes_later(
    lonely: Running, tmp_path: Path
) -> None:
    with lonely.client(timeout=httpx.Timeout(30, read=1)) as impatient:
        with pytest.raises(httpx.ReadTimeout):
            posted(impatient, "left.png", picture(83), wait=60)
        eventually(lambda: [line for line in lonely.log.splitlines() if "client_gone" in line])
    eventually(lambda: not [key for key in lonely.keys("images/") if key.endswith("/left.png")])
    [key] = [key for key in outputs_of(lonely) if "/left/" in key and key.endswith("manifest.json")]
    job_id = key.split("/")[-2]
    with lonely.client() as client:
        kept = posted(client, "stayed.png", picture(84)).json()
        with late_worker(lonely, tmp_path) as worker:
            eventually(lambda: status(client, kept) == "succeeded")
            eventually(lambda: lonely.cloud.queue_counts()["image"] == QueueCounts(0, 0, 0))
            assert f"{job_id}] received" in worker.log.read_text()
        assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"
    assert files_of(lonely, job_id) == ["manifest.json"]


def test_what_a_worker_computes_for_a_job_that_was_cancelled_meanwhile_counts_for_nothing(
    lonely: Running, tmp_path: Path
) -> None:
    answers: list[httpx.Response] = []

    def wait_for(path: str) -> None:
        with lonely.client() as client:
            answers.append(client.get(path, params={"wait": 120}))

    with late_worker(lonely, tmp_path) as worker, lonely.client() as client:
        job = posted(client, "slow.png", picture(85, sleep_s=3)).json()
        eventually(lambda: f"{job['job_id']}] received" in worker.log.read_text())
        waiting = threading.Thread(target=wait_for, args=[job["links"]["self"]])
        waiting.start()
        assert client.delete(job["links"]["self"]).json()["status"] == "cancelled"
        waiting.join(60)
        assert answers[0].json()["status"] == "cancelled"
        eventually(lambda: lonely.cloud.queue_counts()["image"] == QueueCounts(0, 0, 0))
        ended = client.get(job["links"]["self"]).json()
        assert (ended["status"], ended["result"], ended["error"]) == ("cancelled", None, None)
        results = client.get(job["links"]["results"]).json()
        assert (results["status"], results["outputs"]) == ("cancelled", [])
        again = client.post("/v1/jobs", json={**described(lonely, "slow.png"), "force": True})
        forced = client.get(again.headers["location"], params={"wait": 120}).json()
        assert forced["result"]["label"] == label_of(picture(85, sleep_s=3))


def test_who_waits_for_a_job_that_somebody_cancels_is_told_so(lonely: Running) -> None:
    answers: list[httpx.Response] = []
    before = published(lonely)

    def send() -> None:
        with lonely.client() as client:
            answers.append(posted(client, "awaited.png", picture(86), wait=120))

    waiting = threading.Thread(target=send)
    waiting.start()
    [job_id] = eventually(lambda: published(lonely) - before)
    cis("cancel", job_id)
    waiting.join(90)
    assert (answers[0].status_code, answers[0].json()["code"]) == (409, "job_cancelled")


@contextmanager
def late_worker(tier: Running, folder: Path) -> Iterator[Worker]:
    """A worker that ends in order: SQS hands no message to a receive that it leaves open."""
    with image_worker(tier.cloud, folder) as worker:
        yield worker
        worker.stop(60)


def posted(
    client: httpx.Client, name: str, image: bytes, wait: float | None = None
) -> httpx.Response:
    params = {} if wait is None else {"wait": wait}
    return client.post("/v1/images", params=params, files={"image": (name, image)})


def status(client: httpx.Client, job: dict[str, object]) -> str:
    answer = client.get(f"/v1/jobs/{job['job_id']}")
    assert answer.status_code == 200
    return str(answer.json()["status"])


def published(tier: Running) -> set[str]:
    """Ids of the jobs that a tier has published."""
    return set(re.findall(rf"job_published.*?({JOB})", tier.log))


def outputs_of(tier: Running) -> list[str]:
    return tier.keys("image/", tier.cloud.stack.output_bucket)


def files_of(tier: Running, job_id: str) -> list[str]:
    """Names of what is stored of a job."""
    return sorted(key.rpartition("/")[2] for key in outputs_of(tier) if f"/{job_id}/" in key)


def described(tier: Running, name: str) -> dict[str, object]:
    """The body of a request for a job on an image that is in the bucket."""
    [key] = [key for key in tier.keys("images/") if key.endswith(f"/{name}")]
    return {"pipeline": "image", "inputs": {"image": key}}
