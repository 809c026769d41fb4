"""The Lambda handler: publishes a job once all its inputs are there.

Every event asks the same question of the bucket, so events may come in any order, repeatedly and
late: the same objects always make the same job, and publishing it twice is harmless.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session, get_session

from cis_tasks.errors import JobError
from cis_tasks.jobs import Job
from cis_tasks.join import find_job
from cis_tasks.pipelines import PIPELINES, Pipeline, place
from cis_tasks.publish import publish_many
from lambda_trigger.events import Skipped, Upload, uploads

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_sqs.client import SQSClient


class TriggerError(Exception):
    """Some records could not be handled now; Lambda delivers the event again."""


@dataclass
class Batch:
    """What the records of one event came to."""

    jobs: list[Job] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def note(self, outcome: str, **fields: object) -> None:
        """Log one record's outcome and count it."""
        self.counts[outcome] += 1
        log(outcome, **fields)

    def fail(self, outcome: str, error: str, **fields: object) -> None:
        """Log a failure that is worth another delivery."""
        self.failures.append(error)
        self.note(outcome, error=error, **fields)


def handler(event: object, context: object) -> dict[str, int]:  # noqa: ARG001  Lambda's signature
    """Handle one Lambda event of any number of S3 records.

    Returns:
        How many records had which outcome: ``published``, ``waiting``, ``ignored``, ``refused``.

    Raises:
        TriggerError: S3 or SQS failed for at least one record. All others were handled, and
            handling them again changes nothing.
    """
    batch = Batch()
    asked: set[tuple[str, str, str]] = set()
    for record in uploads(event):
        if isinstance(record, Skipped):
            batch.note("refused" if record.malformed else "ignored", reason=record.reason)
        else:
            _join(record, asked, batch)
    _publish(batch)
    if batch.failures:
        raise TriggerError(f"{len(batch.failures)} failed: {'; '.join(batch.failures)}")
    return dict(batch.counts)


def _join(upload: Upload, asked: set[tuple[str, str, str]], batch: Batch) -> None:
    """Look for the other inputs of the job that an upload belongs to."""
    where = {"bucket": upload.bucket, "key": upload.key}
    found = place(upload.key)
    if found is None:
        batch.note("ignored", reason="the key belongs to no pipeline", **where)
        return
    pipeline, role, name = found
    if upload.size == 0:
        batch.note("ignored", reason="the object is empty", role=role.name, **where)
        return
    question = (upload.bucket, pipeline.name, name)
    if question in asked:
        batch.note("ignored", reason="another record of this event asked for the job", **where)
        return
    asked.add(question)
    _look(pipeline, name, where, batch)


def _look(pipeline: Pipeline, name: str, where: dict[str, str], batch: Batch) -> None:
    try:
        job = find_job(_s3(), where["bucket"], pipeline, name)
    except JobError as error:
        batch.note("refused", reason=str(error), **where)
    except (ClientError, BotoCoreError) as error:
        batch.fail("unanswered", f"{where['key']}: {error}", **where)
    else:
        if isinstance(job, Job):
            batch.jobs.append(job)
        else:
            batch.note("waiting", pipeline=job.pipeline, name=name, missing=job.roles, **where)


def _publish(batch: Batch) -> None:
    if not batch.jobs:
        return
    try:
        published = publish_many(_sqs(), _queue_urls(), batch.jobs)
    except JobError as error:
        batch.fail("unpublished", str(error))
        return
    for item in published:
        about = {"pipeline": item.job.pipeline, "name": item.job.name, "job_id": item.job.id}
        if item.error is None:
            batch.note("published", **about)
        else:
            batch.fail("unpublished", str(item.error), **about)


def log(event: str, **fields: object) -> None:
    """One JSON line per thing that happened, for CloudWatch Logs Insights."""
    print(json.dumps({"event": event, **fields}, default=str))


def _queue_urls() -> dict[str, str]:
    """Pipeline → queue URL, from the function's own environment."""
    given = {name: os.environ.get(p.queue_variable, "") for name, p in PIPELINES.items()}
    return {name: url for name, url in given.items() if url}


@functools.cache
def _s3() -> S3Client:
    """Made once per execution environment and kept between invocations."""
    return cast("S3Client", _session().create_client("s3"))


@functools.cache
def _sqs() -> SQSClient:
    return cast("SQSClient", _session().create_client("sqs"))


@functools.cache
def _session() -> Session:
    """Without boto3 around it, whose s3transfer every cold start would import for nothing."""
    return get_session()
