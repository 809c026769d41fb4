"""Everything that the requests of one server process share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import boto3
import structlog
from botocore.config import Config
from fastapi import Request

import cis_tasks.tasks  # noqa: F401  its error types, so that failures come back typed
from cis_tasks import aws, cancelling
from cis_tasks.app import app as celery_app
from cis_tasks.broker.lean import lean_s3, lean_sqs
from cis_tasks.broker.results import Backend
from cis_tasks.jobs import Job
from cis_tasks.manifest import Manifest
from cis_tasks.pipelines import find
from cis_tasks.settings import settings as job_settings
from cis_tasks.web.admission import Admission
from cis_tasks.web.intake import Intake, Publisher, Threads
from cis_tasks.web.limits import RateLimit
from cis_tasks.web.news import Newsroom
from cis_tasks.web.records import Records
from cis_tasks.web.settings import WebSettings
from cis_tasks.web.views import Views
from cis_tasks.web.webhooks import Courier

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_sqs.client import SQSClient

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Tier:
    """One server process.

    Attributes:
        settings: how it behaves.
        s3: client; also signs links.
        input_bucket: where images go.
        output_bucket: where answers come from.
        threads: where boto3 is called for those who wait.
        errands: where it is called for what may take longer: listings, looks, cancellations.
        admission: how much it has taken on.
        rates: who asked how often.
        newsroom: where it learns of jobs.
        publisher: how it queues them.
        intake: how images become jobs.
        records: what it knows of those that wait.
        views: how jobs stand.
        courier: who delivers webhooks.
    """

    settings: WebSettings
    s3: S3Client
    input_bucket: str
    output_bucket: str
    threads: Threads
    errands: Threads
    admission: Admission
    rates: RateLimit
    newsroom: Newsroom
    publisher: Publisher
    intake: Intake
    records: Records
    views: Views
    courier: Courier

    def cancel(self, job: Job) -> Manifest:
        """See `cis_tasks.cancelling.cancel`."""
        return cancelling.cancel(self.s3, self.output_bucket, job)


async def tier_of(request: Request) -> Tier:
    """The tier that answers a request; async, since FastAPI gives a thread to what is not."""
    return cast("Tier", request.app.state.tier)


def make_tier(settings: WebSettings) -> Tier:
    """Put the parts together; nothing is asked of AWS.

    Raises:
        SettingsError: no AWS region is configured.
    """
    backend, jobs = cast("Backend", celery_app.backend), job_settings()
    s3, sqs = s3_client(settings.s3_connections), sqs_client()
    threads, errands = Threads(settings.s3_connections), Threads(8)
    newsroom = Newsroom(backend, errands)
    publisher = Publisher(
        sqs, lambda name: aws.queue_url(find(name)), lambda: newsroom.address, threads
    )
    records = Records(backend.objects)
    views = Views(backend, s3, jobs.output_bucket, records)
    return Tier(
        settings=settings,
        s3=s3,
        input_bucket=jobs.input_bucket,
        output_bucket=jobs.output_bucket,
        threads=threads,
        errands=errands,
        admission=Admission(settings.max_waiting, settings.max_held_bytes),
        rates=RateLimit(settings.rate_per_s, settings.rate_burst),
        newsroom=newsroom,
        publisher=publisher,
        intake=Intake(s3, jobs.input_bucket, threads, publisher),
        records=records,
        views=views,
        courier=Courier(settings, backend.objects, newsroom, views),
    )


@asynccontextmanager
async def running(tier: Tier) -> AsyncIterator[None]:
    """Within the block, the tier listens for replies and delivers webhooks."""
    tier.newsroom.start()
    tier.courier.start()
    try:
        if not await tier.newsroom.wait_live():
            log.warning("no_reply_queue", hint="answers are looked up in S3 until there is one")
        yield
    finally:
        await tier.courier.stop()
        await tier.newsroom.stop()
        tier.threads.close()
        tier.errands.close()


def s3_client(connections: int) -> S3Client:
    """An S3 client for many threads, which gives up sooner than a worker would."""
    config = _config(connections).merge(Config(signature_version="s3v4"))
    return cast("S3Client", lean_s3(boto3.client("s3", config=config)))


def sqs_client() -> SQSClient:
    """An SQS client of the same kind."""
    return cast("SQSClient", lean_sqs(boto3.client("sqs", config=_config(4)), patient=True))


def s3_origins(s3: S3Client, *buckets: str) -> str:
    """Scheme, host and port of presigned links into these buckets, for a browser's policy."""
    links = [
        s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
        for bucket in buckets
    ]
    return " ".join(sorted({f"{u.scheme}://{u.netloc}" for u in map(urlsplit, links)}))


def _config(connections: int) -> Config:
    return aws.CONFIG.merge(
        Config(
            max_pool_connections=connections,
            retries={"mode": "standard", "max_attempts": 3},
            connect_timeout=3,
            read_timeout=60,
            tcp_keepalive=True,
        )
    )
