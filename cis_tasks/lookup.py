"""Where a job is now, from its Celery state and its manifest."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError
from celery import states

import cis_tasks.tasks  # noqa: F401  its error types, so that failures come back typed
from cis_tasks import aws, storage
from cis_tasks.app import app
from cis_tasks.errors import PermanentError, TransientError
from cis_tasks.jobs import LATEST, MANIFEST, Job
from cis_tasks.manifest import Manifest
from cis_tasks.pipelines import PIPELINES
from cis_tasks.settings import settings

JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

Phase = Literal["unknown", "running", "retrying", "given up", "cancelled", "failed", "succeeded"]

NOTED: dict[str, Phase] = {
    states.RETRY: "retrying",
    states.FAILURE: "given up",
    states.REVOKED: "cancelled",
}
"""States without a manifest whose result says why."""


@dataclass(frozen=True)
class Whereabouts:
    """Where a job is.

    Attributes:
        job_id: the job's id.
        phase: ``unknown`` until a worker starts it: a message in a queue cannot be looked up.
        stage: what its worker is doing.
        fraction: how far that stage is, from 0 to 1.
        note: why it is tried again or was given up.
        manifest: its record, once it has ended.
    """

    job_id: str
    phase: Phase
    stage: str = ""
    fraction: float = 0.0
    note: str = ""
    manifest: Manifest | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.phase in {"failed", "succeeded", "given up", "cancelled"}


def locate(job: str) -> Whereabouts:
    """Where the job with this id is, or the newest job of this name.

    Args:
        job: a job id, a name, or ``pipeline/name``.

    Raises:
        PermanentError: there is no job of that name.
        TransientError: S3 did not answer.
    """
    try:
        if JOB_ID.fullmatch(job):
            return _by_id(job.lower())
        return _ended(_newest(job))
    except (ClientError, BotoCoreError) as error:
        raise TransientError("s3_unavailable", f"Could not look for {job}: {error}.") from error


def recent(limit: int = 10) -> list[Manifest]:
    """The newest job of each name, last ended first.

    Raises:
        TransientError: S3 did not answer.
    """
    try:
        pointers = heapq.nlargest(
            limit,
            (
                (item["LastModified"], item["Key"])
                for pipeline in PIPELINES
                for item in _objects(f"{pipeline}/")
                if item["Key"].endswith(f"/{LATEST}")
            ),
        )
        return [_follow(key) for _, key in pointers]
    except (ClientError, BotoCoreError) as error:
        raise TransientError("s3_unavailable", f"Could not list the jobs: {error}.") from error


def _by_id(job_id: str) -> Whereabouts:
    meta = app.backend.get_task_meta(job_id)
    state, result = meta["status"], meta.get("result")
    manifest = _manifest_of(job_id, meta)
    if manifest is not None:
        return _ended(manifest)
    if state in NOTED:
        return Whereabouts(job_id, NOTED[state], note=str(result))
    if state == states.PENDING:
        return Whereabouts(job_id, "unknown")
    if isinstance(result, dict) and "stage" in result:
        return Whereabouts(job_id, "running", result["stage"], float(result["fraction"]))
    return Whereabouts(job_id, "running", "start")


def _manifest_of(job_id: str, meta: dict[str, Any]) -> Manifest | None:
    """The job's manifest: where its state says, else wherever it lies."""
    s3, bucket = aws.s3(), settings().output_bucket
    described = (meta.get("kwargs") or {}).get("job")
    if described:
        return storage.read_manifest(s3, bucket, Job.from_dict(described))
    if meta["status"] != states.PENDING:
        return None
    for pipeline in PIPELINES:  # the state has expired, or the job was run without Celery
        for item in _objects(f"{pipeline}/"):
            if item["Key"].endswith(f"/{job_id}/{MANIFEST}"):
                return _read_manifest(item["Key"])
    return None


def _newest(name: str) -> Manifest:
    prefixes = [f"{pipeline}/" for pipeline in PIPELINES]
    given = name if name.startswith(tuple(prefixes)) else None
    for key in [given] if given else [prefix + name for prefix in prefixes]:
        try:
            return _follow(f"{key}/{LATEST}")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
    raise PermanentError(
        "job_unknown",
        f"No job called {name!r} has ended yet.",
        "Give the job id to follow one that waits or runs.",
    )


def _ended(manifest: Manifest) -> Whereabouts:
    phase: Phase = "cancelled" if manifest.cancelled else manifest.status
    return Whereabouts(manifest.job_id, phase, manifest=manifest)


def _follow(pointer_key: str) -> Manifest:
    body = aws.s3().get_object(Bucket=settings().output_bucket, Key=pointer_key)["Body"].read()
    return _read_manifest(json.loads(body)["manifest"])


def _read_manifest(key: str) -> Manifest:
    body = aws.s3().get_object(Bucket=settings().output_bucket, Key=key)["Body"].read()
    return Manifest.model_validate_json(body)


def _objects(prefix: str) -> Iterator[Any]:
    pages = aws.s3().get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=settings().output_bucket, Prefix=prefix):
        yield from page.get("Contents", [])
