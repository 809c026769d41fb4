"""The full description of a job that people name by its id or by what it is about."""

from __future__ import annotations

from dataclasses import dataclass

from cis_tasks import aws, storage
from cis_tasks.app import app
from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job
from cis_tasks.join import find_job
from cis_tasks.lookup import JOB_ID, locate
from cis_tasks.manifest import Manifest
from cis_tasks.operations import dead_letters
from cis_tasks.operations.asking import asking
from cis_tasks.operations.complete import complete_jobs
from cis_tasks.pipelines import PIPELINES
from cis_tasks.settings import settings


@dataclass(frozen=True)
class Described:
    """A job and its record.

    Attributes:
        job: the job.
        manifest: its record; None where it has not ended.
    """

    job: Job
    manifest: Manifest | None


def describe(job: str) -> Described:
    """The job with an id, or the newest of a name, wherever its description is to be found.

    Looked for, in this order: manifests, Celery's stored states, the inputs in the bucket, the
    dead letters.

    Args:
        job: a job id, a name, or ``pipeline/name``.

    Raises:
        PermanentError: nothing describes it.
        TransientError: AWS did not answer.
    """
    if not JOB_ID.fullmatch(job):
        manifest = locate(job).manifest
        assert manifest is not None  # noqa: S101  a name is found by its manifest
        return Described(Job.from_dict(manifest.job), manifest)
    job_id = job.lower()
    found = locate(job_id).manifest
    if found is not None:
        return Described(Job.from_dict(found.job), found)
    known = _from_state(job_id) or _from_inputs(job_id) or _from_dead_letters(job_id)
    if known is None:
        raise PermanentError(
            "job_unknown",
            f"Nothing describes the job {job_id}: no manifest, no stored state, no inputs in "
            f"{settings().input_bucket} that make it, no dead letter.",
            "Check the id; a job of inputs that were replaced is known only once it has started.",
        )
    with asking(f"read the manifest of {job_id}"):
        return Described(known, storage.read_manifest(aws.s3(), settings().output_bucket, known))


def describe_current(job: str) -> Described:
    """The job with an id, or that of the inputs that are in the bucket now for a name.

    Args:
        job: a job id, a name, or ``pipeline/name``.

    Raises:
        PermanentError: nothing describes it.
        TransientError: AWS did not answer.
    """
    if JOB_ID.fullmatch(job):
        return describe(job)
    s3, bucket = aws.s3(), settings().input_bucket
    for pipeline in PIPELINES.values():
        name = job.removeprefix(f"{pipeline.name}/")
        with asking(f"look for the inputs of {name}"):
            found = find_job(s3, bucket, pipeline, name)
        if isinstance(found, Job):
            return Described(found, storage.read_manifest(s3, settings().output_bucket, found))
    return describe(job)


def _from_state(job_id: str) -> Job | None:
    with asking("read the states of tasks"):
        described = (app.backend.get_task_meta(job_id).get("kwargs") or {}).get("job")
    return Job.from_dict(described) if described else None


def _from_inputs(job_id: str) -> Job | None:
    for pipeline in PIPELINES.values():
        for job in complete_jobs(pipeline):
            if job.id == job_id:
                return job
    return None


def _from_dead_letters(job_id: str) -> Job | None:
    wanted = dead_letters.Filter(ids=frozenset({job_id}))
    for dead in dead_letters.browse(PIPELINES.values(), wanted):
        return dead.letter.job
    return None
