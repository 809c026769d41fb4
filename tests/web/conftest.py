"""One web tier with a worker for all tests of this folder that need no other."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from running import SECRET, Running, image_worker, web_tier

from cis_tasks.local.workers import Worker
from support.cloud import MakeCloud


@pytest.fixture(scope="package")
def worker_and_tier(
    make_cloud: MakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Worker, Running]]:
    folder = tmp_path_factory.mktemp("web")
    with (
        make_cloud() as cloud,
        image_worker(cloud, folder) as worker,
        web_tier(
            cloud,
            folder,
            body_timeout_s=4,
            webhook_secret=SECRET,
            webhook_private=1,
            webhook_backoff_s=0.2,
            flower_url="http://127.0.0.1:5555",
        ) as tier,
    ):
        yield worker, tier


@pytest.fixture(scope="package")
def tier(worker_and_tier: tuple[Worker, Running]) -> Running:
    return worker_and_tier[1]


@pytest.fixture
def client(tier: Running) -> Iterator[httpx.Client]:
    with tier.client() as made:
        yield made
