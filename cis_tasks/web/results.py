"""``/v1/results``: the files of a job that has ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from botocore.exceptions import BotoCoreError, ClientError
from fastapi import APIRouter, Path, Response

from cis_tasks.errors import TransientError
from cis_tasks.jobs import Job
from cis_tasks.manifest import Manifest, Output
from cis_tasks.web.guard import GUARDED, TierOf
from cis_tasks.web.jobs import JobId, known_job
from cis_tasks.web.problems import Problem, responses
from cis_tasks.web.schemas import InputLink, JobFailure, OutputLink, ResultView
from cis_tasks.web.tier import Tier
from cis_tasks.web.views import status_of

MAX_INLINE = 16 << 20  # bytes of a file that is passed on; larger ones have their link
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"

router = APIRouter(prefix="/v1/results", tags=["results"], dependencies=GUARDED)


@router.get(
    "/{job_id}",
    operation_id="get_results",
    responses=responses(401, 403, 404, 409, 422, 429, 500, 503),
)
async def get_results(tier: TierOf, job_id: JobId) -> ResultView:
    """The files of a job that has ended, with links that work without credentials for a time."""
    manifest = await _manifest(tier, job_id)
    return await tier.errands.call(_view, tier, manifest)


@router.get(
    "/{job_id}/files/{name:path}",
    operation_id="get_result_file",
    response_class=Response,
    responses={
        200: {
            "description": "The file.",
            "content": {"application/octet-stream": {"schema": {"type": "string"}}},
        },
        **responses(401, 403, 404, 409, 413, 422, 429, 500, 503),
    },
)
async def get_result_file(
    tier: TierOf,
    job_id: JobId,
    name: Annotated[str, Path(min_length=1, max_length=500, description="The file's name.")],
) -> Response:
    """One file of a job, passed on; for browsers that may not read from S3."""
    manifest = await _manifest(tier, job_id)
    output = manifest.outputs.get(name)
    if output is None:
        raise Problem(404, "file_unknown", "The job has no file of this name.")
    if output.size > MAX_INLINE:
        raise Problem(413, "file_too_large", "Use the file's link from the results.")
    body = await tier.errands.call(_read, tier, manifest.bucket, output)
    headers = {"Content-Security-Policy": SANDBOX}
    return Response(body, headers=headers, media_type="application/octet-stream")


async def _manifest(tier: Tier, job_id: str) -> Manifest:
    manifest = await tier.errands.call(tier.views.manifest, job_id)
    if manifest is None:
        view = await known_job(tier, job_id)
        raise Problem(409, "job_unfinished", f"The job has no results: it is {view.status}.")
    return manifest


def _view(tier: Tier, manifest: Manifest) -> ResultView:
    job = Job.from_dict(manifest.job)
    return ResultView(
        job_id=manifest.job_id,
        status=status_of(manifest),
        result=manifest.result,
        error=JobFailure(**manifest.error.model_dump()) if manifest.error else None,
        outputs=[
            OutputLink(
                name=name,
                size=output.size,
                sha256=output.sha256,
                url=_link(tier, manifest.bucket, output.key, output.version_id),
            )
            for name, output in manifest.outputs.items()
        ],
        inputs=[
            InputLink(
                role=role,
                key=ref.key,
                url=_link(tier, ref.bucket, ref.key, ref.version if ref.versioned else None),
            )
            for role, ref in job.inputs.items()
        ],
        expires_at=datetime.now(UTC) + timedelta(seconds=tier.settings.links_expire_s),
    )


def _link(tier: Tier, bucket: str, key: str, version: str | None) -> str:
    exact = {"VersionId": version} if version else {}
    return tier.s3.generate_presigned_url(
        "get_object",
        Params={"Bucket": bucket, "Key": key, **exact},
        ExpiresIn=tier.settings.links_expire_s,
    )


def _read(tier: Tier, bucket: str, output: Output) -> bytes:
    exact = {"VersionId": output.version_id} if output.version_id else {}
    try:
        answer = tier.s3.get_object(Bucket=bucket, Key=output.key, **exact)  # type: ignore[arg-type]
        return answer["Body"].read()
    except (ClientError, BotoCoreError) as error:
        raise TransientError("s3_unavailable", f"Could not read {output.key}: {error}.") from error
