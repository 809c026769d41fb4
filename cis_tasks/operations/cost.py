"""What jobs cost, from the figures in their records and a file of prices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cis_tasks import aws
from cis_tasks.errors import PermanentError
from cis_tasks.jobs import MANIFEST
from cis_tasks.manifest import Manifest
from cis_tasks.operations.asking import asking
from cis_tasks.pipelines import PIPELINES
from cis_tasks.settings import settings

GB = 1e9
LAMBDA_GB_SECONDS = 0.5 * 0.3  # of one upload's event: 512 MB for about 0.3 s
SQS_CALLS = 3  # send, receive, delete
EXTENSION_S = 40.0  # a third of the template's visibility timeout
READS = 4  # manifest and pointer before, head of the pointer, read by the caller
WRITES = 4  # manifest, pointer, two states


class Prices(BaseModel):
    """A file of prices; see ``prices.json`` beside this module.

    Attributes:
        about: where they are from.
        currency: of all of them.
        machine: what works, for people.
        machine_hour: pipeline → price of an hour of its machine.
        busy_share: which part of the time that is paid for the machines work, 0 to 1. Booting and
            waiting are spread over the jobs by it: 0.5 doubles each job's share.
        s3_put_per_1000: writing requests.
        s3_get_per_1000: reading requests.
        s3_gb_month: storage.
        sqs_per_million: requests to FIFO queues.
        lambda_per_million: invocations.
        lambda_gb_second: their time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str = ""
    currency: str = "USD"
    machine: str = ""
    machine_hour: dict[str, float]
    busy_share: float = Field(1.0, gt=0, le=1)
    s3_put_per_1000: float = Field(ge=0)
    s3_get_per_1000: float = Field(ge=0)
    s3_gb_month: float = Field(ge=0)
    sqs_per_million: float = Field(ge=0)
    lambda_per_million: float = Field(ge=0)
    lambda_gb_second: float = Field(ge=0)


@dataclass(frozen=True)
class Cost:
    """What one job cost.

    Attributes:
        job_id: the job.
        pipeline: its pipeline.
        ended: when.
        status: how.
        seconds: for which its machine worked in the attempt that ended it. Attempts before it
            are in no record and not counted.
        attempts: how many there were.
        machine: price of these seconds.
        requests: price of S3's, SQS's and Lambda's requests for it.
        storage_month: price of keeping its outputs for a month.
    """

    job_id: str
    pipeline: str
    ended: datetime
    status: str
    seconds: float
    attempts: int
    machine: float
    requests: float
    storage_month: float

    @property
    def total(self) -> float:
        """All of it, with the storage of one month."""
        return self.machine + self.requests + self.storage_month

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**vars(self), "ended": self.ended.isoformat(), "total": self.total}


@dataclass
class Month:
    """What the jobs of one month and pipeline cost.

    Attributes:
        month: as ``2026-11``.
        pipeline: which.
        jobs: how many ended.
        failed: how many of them without an answer.
        retried: how many of them needed more than one attempt.
        seconds: of machines.
        total: price of all.
    """

    month: str
    pipeline: str
    jobs: int = 0
    failed: int = 0
    retried: int = 0
    seconds: float = 0.0
    total: float = field(default=0.0)

    def add(self, cost: Cost) -> None:
        """Count one job."""
        self.jobs += 1
        self.failed += cost.status == "failed"
        self.retried += cost.attempts > 1
        self.seconds += cost.seconds
        self.total += cost.total


def read_prices(path: Path | None) -> Prices:
    """A file of prices; the one that comes with the package if None.

    Raises:
        PermanentError: it cannot be read or is none.
    """
    try:
        if path is None:
            text = resources.files(__package__).joinpath("prices.json").read_text()
        else:
            text = path.read_text()
        return Prices.model_validate(json.loads(text))
    except (OSError, ValueError, ValidationError) as error:
        raise PermanentError(
            "prices_malformed",
            f"{path} is no file of prices: {error}.",
            "Copy cis_tasks/operations/prices.json and change the numbers.",
        ) from error


def price(manifest: Manifest, prices: Prices) -> Cost:
    """What one job cost.

    Raises:
        PermanentError: the prices lack its pipeline.
    """
    pipeline = manifest.job["pipeline"]
    if pipeline not in prices.machine_hour:
        raise PermanentError(
            "price_missing",
            f"The prices have no machine_hour for the pipeline {pipeline!r}.",
            "Add it to the file of prices.",
        )
    seconds = (manifest.finished_at - manifest.started_at).total_seconds()
    stored_gb = sum(output.size for output in manifest.outputs.values()) / GB
    inputs, outputs = len(manifest.job["inputs"]), len(manifest.outputs)
    requests = (
        (inputs + outputs + WRITES) * prices.s3_put_per_1000 / 1e3
        + (inputs + READS) * prices.s3_get_per_1000 / 1e3
        + (SQS_CALLS + seconds // EXTENSION_S) * prices.sqs_per_million / 1e6
        + inputs * prices.lambda_per_million / 1e6
        + inputs * LAMBDA_GB_SECONDS * prices.lambda_gb_second
    )
    return Cost(
        job_id=manifest.job_id,
        pipeline=pipeline,
        ended=manifest.finished_at,
        status=manifest.status,
        seconds=seconds,
        attempts=manifest.attempt,
        machine=seconds / 3600 * prices.machine_hour[pipeline] / prices.busy_share,
        requests=requests,
        storage_month=stored_gb * prices.s3_gb_month,
    )


def records(since: datetime | None = None) -> Iterator[Manifest]:
    """The records of all jobs that ended since then.

    Raises:
        TransientError: S3 did not answer.
    """
    s3, bucket = aws.s3(), settings().output_bucket
    with asking(f"list {bucket}"):
        for pipeline in PIPELINES:
            pages = s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=f"{pipeline}/"):
                for item in page.get("Contents", []):
                    recent = since is None or item["LastModified"] >= since
                    if recent and item["Key"].endswith(f"/{MANIFEST}"):
                        body = s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
                        yield Manifest.model_validate_json(body)


def by_month(costs: Iterable[Cost]) -> list[Month]:
    """Costs by month and pipeline, oldest first."""
    months: dict[tuple[str, str], Month] = {}
    for cost in costs:
        key = f"{cost.ended:%Y-%m}", cost.pipeline
        months.setdefault(key, Month(*key)).add(cost)
    return [months[key] for key in sorted(months)]
