"""Stopping a job for good, wherever it is.

A message in a FIFO queue cannot be looked up or taken out. So the job is ended in its record: a
manifest that says it was cancelled. Whoever receives its message later answers from that and runs
nothing; a worker that is at it cannot write a second one, and is told to stop.
"""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from datetime import UTC, datetime

from cis_tasks import aws, notifications, storage
from cis_tasks.app import app
from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job
from cis_tasks.manifest import Failure, Manifest
from cis_tasks.operations.described import describe_current
from cis_tasks.settings import settings

CODE = "cancelled"


@dataclass(frozen=True)
class Cancelled:
    """What a cancellation came to.

    Attributes:
        job: the job.
        manifest: its record, which says that it was cancelled.
    """

    job: Job
    manifest: Manifest


def cancel(job: str) -> Cancelled:
    """Cancel a job by its id, or that of the newest inputs of a name; twice is as once.

    Raises:
        PermanentError: nothing describes the job, or it has ended already.
        TransientError: AWS did not answer.
    """
    described = describe_current(job)
    manifest = described.manifest or _end(described.job)
    if manifest.error is None or manifest.error.code != CODE:
        raise PermanentError(
            "job_ended",
            f"The job {manifest.job_id} has ended already: {manifest.status}.",
            "`cis forget` deletes what it wrote.",
        )
    # Stop a worker that is at it, and let others drop its message unseen.
    app.control.revoke(manifest.job_id, terminate=True)
    return Cancelled(described.job, manifest)


def _end(job: Job) -> Manifest:
    """Write the record that ends a job; the one that stands there where another was quicker."""
    now = datetime.now(UTC)
    manifest = Manifest(
        job_id=job.id,
        status="failed",
        job=job.to_dict(),
        bucket=settings().output_bucket,
        error=Failure(
            code=CODE,
            message="The job was cancelled before it ended.",
            hint="`cis submit --force` makes a new job of the same files.",
        ),
        pipeline_version=job.pipeline_version,
        started_at=now,
        finished_at=now,
        worker=f"{getpass.getuser()}@{socket.gethostname()}",
        attempt=1,
    )
    if storage.write_manifest(aws.s3(), settings().output_bucket, job, manifest):
        notifications.job_ended(manifest)
        return manifest
    winner = storage.read_manifest(aws.s3(), settings().output_bucket, job)
    return winner or manifest
