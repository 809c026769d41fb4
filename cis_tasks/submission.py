"""From files or ``s3://`` URLs to a job, for people and programs that do not wait for an event."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks import aws
from cis_tasks.errors import PermanentError, PublishError, TransientError
from cis_tasks.inputs import job_from_urls, name_for, require_all
from cis_tasks.jobs import Job, ObjectRef
from cis_tasks.join import REQUEST_METADATA, Found, request_metadata, stat
from cis_tasks.pipelines import Pipeline, Role, find, is_name
from cis_tasks.publish import publish_many
from cis_tasks.settings import settings

if TYPE_CHECKING:
    from celery.result import AsyncResult

CONTENT_METADATA = "cis-sha256"

Files = str | Path | Mapping[str, str | Path] | Sequence[str | Path]
"""Role → local path or ``s3://`` URL; or just the paths, whose endings tell their roles."""


@dataclass(frozen=True)
class Submitted:
    """What became of one submission.

    Attributes:
        job: the job.
        result: its Celery result, where it was published.
        error: why it was not.
    """

    job: Job
    result: AsyncResult | None = None
    error: PublishError | None = None


def submit(
    pipeline: str, files: Files, *, name: str | None = None, force: bool = False, **params: Any
) -> AsyncResult:
    """Upload a job's files where they are local, publish the job, and return its result.

    Files that the input bucket already holds, byte for byte, are not uploaded again, so that the
    same call twice is one job.

    Args:
        pipeline: name in the registry.
        files: role → path or URL, or the paths alone; one path where one is all.
        name: the job's name; else the stem of its first required file.
        force: make a new job even of the same inputs.
        params: the pipeline's parameters.

    Returns:
        Celery's ``AsyncResult``; its id is the job id, its ``get()`` gives an `Answer`.

    Raises:
        PermanentError: a file is missing or does not fit the pipeline.
        PublishError: the message could not be queued.
        TransientError: S3 did not take an upload.
    """
    job = prepare(pipeline, files, name=name, force=force, **params)
    [submitted] = publish_jobs([job])
    if submitted.error is not None:
        raise submitted.error
    assert submitted.result is not None  # noqa: S101  published without an error
    return submitted.result


def submit_many(
    pipeline: str, batch: Iterable[Files], *, force: bool = False, **params: Any
) -> list[Submitted]:
    """Submit many jobs of one pipeline, publishing ten per call.

    Args:
        pipeline: name in the registry.
        batch: the files of each job, as for `submit`.
        force: make new jobs even of the same inputs.
        params: parameters of every job.

    Returns:
        What became of each distinct job, in order. One that SQS refuses does not stop the others.

    Raises:
        PermanentError: a file is missing or does not fit the pipeline; nothing was published.
        TransientError: S3 did not take an upload; nothing was published.
    """
    return publish_jobs([prepare(pipeline, files, force=force, **params) for files in batch])


def prepare(
    pipeline: str,
    files: Files,
    *,
    name: str | None = None,
    force: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
    **params: Any,
) -> Job:
    """Upload a job's files where they are local; the job, not yet published.

    Args:
        pipeline: name in the registry.
        files: role → path or URL, or the paths alone; one path where one is all.
        name: the job's name; else the stem of its first required file.
        force: make a new job even of the same inputs.
        on_bytes: told of every further number of bytes that was uploaded.
        params: the pipeline's parameters.

    Raises:
        PermanentError: a file is missing or does not fit the pipeline.
        TransientError: S3 did not take an upload.
    """
    kind = find(pipeline)
    given = {role: str(file) for role, file in _by_role(kind, files).items()}
    require_all(kind, given)
    local = {role: Path(file) for role, file in given.items() if not file.startswith("s3://")}
    for path in local.values():
        if not path.is_file() or not path.stat().st_size:
            raise PermanentError(
                "file_missing", f"{path} is not a file with content.", "Check the path."
            )
    chosen = name or name_for(kind, given)
    if not is_name(chosen):
        raise PermanentError(
            "name_malformed",
            f"{chosen!r} cannot name a job.",
            "Use path segments that are neither empty nor dots.",
        )
    nonce = uuid.uuid4().hex if force else ""
    metadata = request_metadata(params, nonce)
    # Optional parts first: the last required one's event finds them.
    for part in sorted(kind.roles, key=lambda role: role.required):
        if part.name in local:
            given[part.name] = _upload(part, chosen, local[part.name], metadata, on_bytes).url
    return job_from_urls(kind, given, params, name=chosen, nonce=nonce)


def publish_jobs(jobs: Sequence[Job]) -> list[Submitted]:
    """Publish prepared jobs, ten per call.

    Raises:
        SettingsError: the queue of a job's pipeline was not found.
    """
    import cis_tasks.tasks  # noqa: F401, PLC0415  its error types, for the results
    from cis_tasks.app import app  # noqa: PLC0415  Celery is needed only for the results

    urls = {name: aws.queue_url(find(name)) for name in {job.pipeline for job in jobs}}
    return [
        Submitted(p.job, None if p.error else app.AsyncResult(p.job.id), p.error)
        for p in publish_many(aws.sqs(), urls, jobs)
    ]


def _by_role(pipeline: Pipeline, files: Files) -> Mapping[str, str | Path]:
    """Role → file; a file's ending tells its role where the caller does not."""
    if isinstance(files, Mapping):
        return files
    if isinstance(files, str | Path):
        files = [files]
    chosen: dict[str, str | Path] = {}
    for file in files:
        role = _role_for(pipeline, str(file))
        if role.name in chosen:
            raise PermanentError(
                "role_twice",
                f"{chosen[role.name]} and {file} are both {role.name}.",
                "Submit them one job at a time.",
            )
        chosen[role.name] = file
    return chosen


def _role_for(pipeline: Pipeline, file: str) -> Role:
    for role in pipeline.roles:
        if file.lower().endswith(role.suffixes):
            return role
    accepted = "; ".join(f"{role.name}: {', '.join(role.suffixes)}" for role in pipeline.roles)
    raise PermanentError(
        "suffix_unknown",
        f"{file} has an ending that {pipeline.name!r} does not take.",
        f"Accepted are {accepted}.",
    )


def _upload(
    role: Role,
    name: str,
    path: Path,
    metadata: Mapping[str, str],
    on_bytes: Callable[[int], None],
) -> ObjectRef:
    """Upload one file unless the very same is there; the object's current version."""
    if not path.name.lower().endswith(role.suffixes):
        raise PermanentError(
            "suffix_unknown",
            f"{path} has an ending that {role.name} cannot have.",
            f"Accepted are {', '.join(role.suffixes)}.",
        )
    suffix = next(s for s in role.suffixes if path.name.lower().endswith(s))
    bucket, key = settings().input_bucket, role.key_for(name, suffix)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    wanted = {CONTENT_METADATA: digest, **metadata}
    s3 = aws.s3()
    try:
        there = stat(s3, bucket, key)
        if there is None or not _same(there, wanted):
            extra = {"Metadata": wanted}
            s3.upload_file(str(path), bucket, key, ExtraArgs=extra, Callback=on_bytes)
            there = stat(s3, bucket, key)
    except (ClientError, BotoCoreError, Boto3Error) as error:
        raise TransientError(
            "upload_failed", f"Could not upload {path} to s3://{bucket}/{key}: {error}."
        ) from error
    if there is None:
        raise TransientError("upload_gone", f"s3://{bucket}/{key} went away as it was uploaded.")
    return there.ref


def _same(there: Found, wanted: Mapping[str, str]) -> bool:
    keys = (CONTENT_METADATA, REQUEST_METADATA)
    return all(there.metadata.get(key) == wanted.get(key) for key in keys)
