"""From ``s3://`` URLs to the job on the objects' current versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks import aws
from cis_tasks.errors import PermanentError, TransientError
from cis_tasks.jobs import Job, ObjectRef
from cis_tasks.join import input_of, stat
from cis_tasks.pipelines import Pipeline, Role
from cis_tasks.storage import parse_url


def job_from_urls(
    pipeline: Pipeline,
    urls: Mapping[str, str],
    params: Mapping[str, Any],
    *,
    name: str | None = None,
    nonce: str = "",
) -> Job:
    """The job on the current versions of the objects that ``urls`` name.

    Optional inputs that are not named are found as an upload's event would find them, so that
    both make the same job.

    Args:
        pipeline: which pipeline.
        urls: role → ``s3://`` URL.
        params: the pipeline's parameters.
        name: the job's name; else taken from the first required object's key.
        nonce: text that makes a repetition a job of its own.

    Raises:
        PermanentError: a role is unknown or missing, a URL is malformed, or an object is not there.
        TransientError: S3 did not answer.
    """
    require_all(pipeline, urls)
    chosen = name or name_for(pipeline, urls)
    bucket = parse_url(urls[_first_required(pipeline).name])[0]
    inputs: dict[str, ObjectRef] = {}
    try:
        for role in pipeline.roles:
            if role.name in urls:
                inputs[role.name] = _existing(urls[role.name])
            elif found := input_of(aws.s3(), bucket, pipeline, role, chosen):
                inputs[role.name] = found.ref
    except (ClientError, BotoCoreError) as error:
        raise TransientError(
            "s3_unavailable", f"Could not look for the inputs: {error}."
        ) from error
    return Job(pipeline.name, pipeline.version, chosen, inputs, dict(params), nonce)


def require_all(pipeline: Pipeline, given: Mapping[str, str]) -> None:
    """Check that every role of ``given`` (role → file) is known and every required one there.

    Raises:
        PermanentError: a role is unknown or missing.
    """
    for name in given:
        pipeline.role(name)
    missing = [r.name for r in pipeline.roles if r.required and not given.get(r.name)]
    if missing:
        raise PermanentError(
            "input_missing",
            f"A {pipeline.name} job needs {' and '.join(missing)} too.",
            f"It takes {', '.join(role.name for role in pipeline.roles)}.",
        )


def name_for(pipeline: Pipeline, given: Mapping[str, str]) -> str:
    """The name in the first required input's key, else the stem of its file."""
    role = _first_required(pipeline)
    file = given[role.name]
    if file.startswith("s3://"):
        key = parse_url(file)[1]
        return role.name_in(key) or PurePosixPath(key).stem
    return Path(file).stem


def _first_required(pipeline: Pipeline) -> Role:
    return next(role for role in pipeline.roles if role.required)


def _existing(url: str) -> ObjectRef:
    found = stat(aws.s3(), *parse_url(url))
    if found is None:
        raise PermanentError("input_missing", f"There is no object {url}.", "Upload it first.")
    return found.ref
