"""The join: which objects are there for a name, and the job that they make."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job, ObjectRef, canonical_json
from cis_tasks.pipelines import Pipeline, Role

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef

REQUEST_METADATA = "cis-job"
"""User metadata (``x-amz-meta-cis-job``) of an input that carries its job's parameters."""

REPLY_METADATA = "cis-reply-to"
"""User metadata of an input whose uploader waits for its job: its reply queue.

Otherwise the answer would not reach it where the upload's own event is published first.
"""


@dataclass(frozen=True)
class Missing:
    """A job that is not complete yet.

    Attributes:
        pipeline: the pipeline's name.
        name: the job's name.
        roles: the required roles that have no object.
    """

    pipeline: str
    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """An input object as S3 describes it now.

    Attributes:
        ref: the object's current version.
        metadata: its user metadata.
    """

    ref: ObjectRef
    metadata: Mapping[str, str]


def find_job(s3: S3Client, bucket: str, pipeline: Pipeline, name: str) -> Job | Missing:
    """The job that the objects now in ``bucket`` make for ``name``.

    Whichever input's event asks, and whenever, the answer depends on what is in the bucket
    alone: several events about one set of inputs make one job.

    Raises:
        PermanentError: an input carries unreadable job parameters.
        botocore.exceptions.ClientError: S3 refused a call.
    """
    found = {role.name: input_of(s3, bucket, pipeline, role, name) for role in pipeline.roles}
    missing = tuple(r.name for r in pipeline.roles if r.required and found[r.name] is None)
    if missing:
        return Missing(pipeline.name, name, missing)
    present = {role: item for role, item in found.items() if item is not None}
    return Job(
        pipeline=pipeline.name,
        pipeline_version=pipeline.version,
        name=name,
        inputs={role: item.ref for role, item in present.items()},
        reply_to=next(
            (reply for item in present.values() if (reply := item.metadata.get(REPLY_METADATA))), ""
        ),
        **_request(present),
    )


def input_of(s3: S3Client, bucket: str, pipeline: Pipeline, role: Role, name: str) -> Found | None:
    """The object that plays ``role`` for ``name``: the newest, or the role's default, or None."""
    candidates = sorted(
        _list(s3, bucket, f"{role.prefix}{name}."),
        key=lambda item: (item["LastModified"], item["Key"]),
        reverse=True,
    )
    for item in candidates:
        key = item["Key"]
        if item["Size"] and pipeline.place(key) == (role, name):
            found = stat(s3, bucket, key)
            if found is not None:
                return found
    return stat(s3, bucket, role.default_key) if role.default_key else None


def stat(s3: S3Client, bucket: str, key: str) -> Found | None:
    """The current version of an object, or None where there is none."""
    try:
        head = s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise
    version = head.get("VersionId", "null")
    versioned = version != "null"
    ref = ObjectRef(bucket, key, version if versioned else head["ETag"].strip('"'), versioned)
    return Found(ref, head["Metadata"])


def request_metadata(params: Mapping[str, Any], nonce: str = "") -> dict[str, str]:
    """The user metadata that makes an upload's own event ask for the very job of its uploader."""
    if not params and not nonce:
        return {}
    request = json.loads(canonical_json({"params": dict(params), "nonce": nonce}))
    return {REQUEST_METADATA: json.dumps(request)}  # metadata are HTTP headers: ASCII


def _request(present: Mapping[str, Found]) -> dict[str, Any]:
    """Parameters and nonce that the uploader attached to the first input that carries any."""
    for role, item in present.items():
        text = item.metadata.get(REQUEST_METADATA)
        if text is None:
            continue
        try:
            request = json.loads(text)
            return {"params": dict(request["params"]), "nonce": str(request["nonce"])}
        except (ValueError, KeyError, TypeError) as error:
            raise PermanentError(
                "metadata_malformed",
                f"The metadata {REQUEST_METADATA} of the {role} {item.ref.url} is unreadable.",
                'It is written {"params": {…}, "nonce": ""}; or upload without it.',
            ) from error
    return {}


def _list(s3: S3Client, bucket: str, prefix: str) -> Iterator[ObjectTypeDef]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", [])
