"""``cis cancel``: a job by its id or name, ended for good."""

from __future__ import annotations

from dataclasses import dataclass

from cis_tasks import aws, cancelling
from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job
from cis_tasks.manifest import Manifest
from cis_tasks.operations.described import describe_current
from cis_tasks.settings import settings


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
    described = describe_current(job).job
    manifest = cancelling.cancel(aws.s3(), settings().output_bucket, described)
    if not manifest.cancelled:
        raise PermanentError(
            "job_ended",
            f"The job {manifest.job_id} has ended already: {manifest.status}.",
            "`cis forget` deletes what it wrote.",
        )
    return Cancelled(described, manifest)
