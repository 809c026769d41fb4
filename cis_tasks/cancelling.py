"""Ending a job for good, wherever it is, before it has ended by itself.

A message in a FIFO queue cannot be looked up or taken out. So the job is ended in its record: a
manifest that says it was cancelled. Whoever receives its message later, however much later,
answers from that and runs nothing; a worker that is at it cannot write a second one.
"""

from __future__ import annotations

import getpass
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery.app.task import Context

from cis_tasks import notifications, storage
from cis_tasks.app import app
from cis_tasks.errors import TransientError
from cis_tasks.jobs import Job
from cis_tasks.manifest import CANCELLED, Failure, Manifest
from cis_tasks.pipelines import find
from cis_tasks.publish import message_kwargs

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MESSAGE = "The job was cancelled before it ended."
HINT = "Submit the same files with force: that makes a new job of them."


def cancel(s3: S3Client, bucket: str, job: Job) -> Manifest:
    """Cancel a job, unless it has ended; twice is as once.

    Args:
        s3: client.
        bucket: output bucket.
        job: the job, whether it waits, runs, or was never published.

    Returns:
        The record that ends the job: `Manifest.cancelled` where the job is cancelled, else that of
        the end which came first.

    Raises:
        TransientError: AWS did not answer. The job may be cancelled already; cancel it again.
    """
    manifest = _end(s3, bucket, job)
    if manifest.cancelled:
        _tell(job)
    return manifest


def _end(s3: S3Client, bucket: str, job: Job) -> Manifest:
    """Write the record that ends a job, or read the one that stands there."""
    record = _record(bucket, job)
    if storage.write_manifest(s3, bucket, job, record):
        notifications.job_ended(record)
        return record
    standing = storage.read_manifest(s3, bucket, job)
    if standing is None:
        raise TransientError(
            "manifest_contended",
            f"The manifest of job {job.id} was being written by another.",
            "Try again.",
        )
    return standing


def _tell(job: Job) -> None:
    """Let workers drop the job's message unseen, stop one that is at it, and tell who waits."""
    pipeline = find(job.pipeline)
    request = Context(id=job.id, task=pipeline.task, args=(), kwargs=message_kwargs(job))
    try:
        # A thread cannot be stopped: what it computes then is not stored as the job's answer.
        app.control.revoke(job.id, terminate=pipeline.pool == "process")
        app.backend.mark_as_revoked(job.id, MESSAGE, request)
    except Exception as error:
        raise TransientError(
            "workers_not_told",
            f"The job {job.id} is cancelled, but workers could not be told: {error}.",
            "Cancel it again.",
        ) from error


def _record(bucket: str, job: Job) -> Manifest:
    now = datetime.now(UTC)
    return Manifest(
        job_id=job.id,
        status="failed",
        job=job.to_dict(),
        bucket=bucket,
        error=Failure(code=CANCELLED, message=MESSAGE, hint=HINT),
        pipeline_version=job.pipeline_version,
        started_at=now,
        finished_at=now,
        worker=f"{_user()}@{socket.gethostname()}",
        attempt=1,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "cis"
