"""Which jobs the objects in the input bucket make."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from cis_tasks import aws
from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job
from cis_tasks.join import find_job
from cis_tasks.operations.asking import asking
from cis_tasks.pipelines import Pipeline
from cis_tasks.settings import settings

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectTypeDef


def complete_jobs(
    pipeline: Pipeline, *, name: str = "*", until: datetime | None = None
) -> Iterator[Job]:
    """The job of every name whose required inputs are all there, in the order of the names.

    Args:
        pipeline: whose.
        name: pattern of the names, with ``*`` and ``?``.
        until: leave out names with an input that was uploaded later.

    Raises:
        TransientError: S3 did not answer.
    """
    for found, newest in sorted(_names(pipeline).items()):
        if not fnmatch.fnmatchcase(found, name) or (until is not None and newest > until):
            continue
        with asking(f"look for the inputs of {found}"):
            try:
                job = find_job(aws.s3(), settings().input_bucket, pipeline, found)
            except PermanentError:  # unreadable metadata: no event makes a job of it either
                continue
        if isinstance(job, Job):
            yield job


def _names(pipeline: Pipeline) -> dict[str, datetime]:
    """Name → when its newest input was uploaded."""
    names: dict[str, datetime] = {}
    with asking(f"list {settings().input_bucket}"):
        for prefix in dict.fromkeys(role.prefix for role in pipeline.roles):
            for item in _objects(prefix):
                placed = pipeline.place(item["Key"])
                if placed is not None:
                    _, name = placed
                    names[name] = max(item["LastModified"], names.get(name, item["LastModified"]))
    return names


def _objects(prefix: str) -> Iterator[ObjectTypeDef]:
    pages = aws.s3().get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=settings().input_bucket, Prefix=prefix):
        yield from page.get("Contents", [])
