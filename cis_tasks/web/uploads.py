"""``POST /v1/uploads``: presigned POSTs, so that large files never pass through the tier."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter

from cis_tasks.join import request_metadata
from cis_tasks.pipelines import Pipeline, Role, find
from cis_tasks.web.guard import GUARDED, TierOf
from cis_tasks.web.images import split_name, unique_folder
from cis_tasks.web.problems import Problem, responses
from cis_tasks.web.schemas import UploadFile, UploadPlan, UploadRequest, UploadTarget
from cis_tasks.web.tier import Tier

MEDIA_TYPES = {
    ".avi": "video/x-msvideo",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".csv": "text/csv",
    ".gif": "image/gif",
    ".jfif": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".m4v": "video/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".webm": "video/webm",
    ".webp": "image/webp",
}

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], dependencies=GUARDED)


@router.post(
    "",
    status_code=201,
    operation_id="post_uploads",
    responses=responses(400, 401, 403, 409, 413, 422, 429, 500, 503),
)
async def post_uploads(tier: TierOf, body: UploadRequest) -> UploadPlan:
    """Say where the files of one job go.

    Each file is then sent to S3 by a form of the given fields, and the job is queued by posting
    `job` to `/v1/jobs`. S3 refuses files that are larger than was said or of another type.
    """
    pipeline = find(body.pipeline)
    chosen = {role: file for file in body.files for role in [_role_of(pipeline, file, body)]}
    missing = [role.name for role in pipeline.roles if role.required and role not in chosen]
    if missing:
        raise Problem(422, "input_missing", f"A {pipeline.name} job needs {', '.join(missing)}.")
    _check_sizes(tier, chosen)
    first = next(role for role in pipeline.roles if role.required)
    name = f"{unique_folder()}/{split_name(chosen[first].filename)[0]}"
    metadata = request_metadata(body.params)
    # Optional files first: the event of the last required one finds them.
    ordered = sorted(chosen, key=lambda role: role.required)
    targets = [_target(tier, role, name, chosen[role], metadata) for role in ordered]
    return UploadPlan(
        name=name,
        files=targets,
        job={
            "pipeline": pipeline.name,
            "inputs": {target.role: target.key for target in targets},
            "params": body.params,
        },
        expires_at=datetime.now(UTC) + timedelta(seconds=tier.settings.links_expire_s),
    )


def _role_of(pipeline: Pipeline, file: UploadFile, body: UploadRequest) -> Role:
    """The role that a file's ending tells.

    Raises:
        Problem: it tells none, or another file has it.
    """
    for role in pipeline.roles:
        if file.filename.lower().endswith(role.suffixes):
            rivals = [f for f in body.files if f.filename.lower().endswith(role.suffixes)]
            if len(rivals) > 1:
                raise Problem(422, "role_twice", f"There is more than one file for {role.name!r}.")
            return role
    accepted = "; ".join(f"{role.name}: {', '.join(role.suffixes)}" for role in pipeline.roles)
    raise Problem(
        422, "suffix_unknown", f"{file.filename!r} has an unknown ending. Known are {accepted}."
    )


def _check_sizes(tier: Tier, chosen: Mapping[Role, UploadFile]) -> None:
    for role, file in chosen.items():
        limit = min(tier.settings.max_upload_bytes, role.max_bytes or sys.maxsize)
        if file.size > limit:
            raise Problem(
                413,
                "file_too_large",
                f"{file.filename!r} has {file.size} bytes; at most {limit} are taken.",
            )


def _target(
    tier: Tier, role: Role, name: str, file: UploadFile, metadata: Mapping[str, str]
) -> UploadTarget:
    suffix = next(s for s in role.suffixes if file.filename.lower().endswith(s))
    key = role.key_for(name, suffix)
    fields = {
        "Content-Type": MEDIA_TYPES.get(suffix, "application/octet-stream"),
        "success_action_status": "201",
        **{f"x-amz-meta-{key}": value for key, value in metadata.items()},
    }
    conditions: list[Any] = [{name: value} for name, value in fields.items()]
    conditions.append(["content-length-range", 1, file.size])
    made = tier.s3.generate_presigned_post(
        tier.input_bucket,
        key,
        Fields=fields,
        Conditions=conditions,
        ExpiresIn=tier.settings.links_expire_s,
    )
    return UploadTarget(
        filename=file.filename, role=role.name, key=key, url=made["url"], fields=made["fields"]
    )
