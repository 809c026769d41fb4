"""``/v1/jobs``: make, list, look at, follow and cancel jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from cis_tasks.errors import PermanentError, PublishError
from cis_tasks.inputs import job_from_urls
from cis_tasks.jobs import Job
from cis_tasks.pipelines import find
from cis_tasks.web.classifying import accepted
from cis_tasks.web.guard import GUARDED, TierOf
from cis_tasks.web.images import unique_folder
from cis_tasks.web.news import Follower, News
from cis_tasks.web.problems import Problem, responses
from cis_tasks.web.records import Record
from cis_tasks.web.schemas import ENDED, JobList, JobRequest, JobView, Status
from cis_tasks.web.tier import Tier
from cis_tasks.web.views import queued, view_of, with_manifest

JOB_ID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
KEEP_ALIVE_S = 15.0  # proxies close what is silent for longer

JobId = Annotated[str, Path(pattern=JOB_ID, description="The job's id.")]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=GUARDED)


@router.post(
    "",
    operation_id="post_job",
    response_model=JobView,
    responses={
        200: {"description": "The same job has ended before."},
        202: {"description": "The job is queued or runs.", "model": JobView},
        **responses(400, 401, 403, 409, 422, 429, 500, 503),
    },
)
async def post_job(request: Request, tier: TierOf, body: JobRequest) -> Response:
    """Queue a job on objects that are in the input bucket; the same call twice is one job."""
    if body.webhook is not None:
        tier.courier.check(body.webhook)
    job = await tier.errands.call(_job, tier, body)
    known = await tier.errands.call(tier.views.find, job.id)
    if body.webhook is not None:
        await tier.courier.accept(body.webhook, job)
    if known is not None and known.status in ENDED:
        return JSONResponse(known.model_dump(mode="json"))
    record = Record.now(job, request.state.request_id)
    tier.records.remember(record)
    try:
        await tier.intake.publish(job)
    except PublishError:
        tier.records.forget(job.id)
        if body.webhook is not None:
            await tier.courier.drop(body.webhook, job)
        raise
    await tier.errands.call(tier.records.write, record)
    return accepted(known or queued(record))


@router.get(
    "",
    operation_id="list_jobs",
    responses=responses(401, 403, 422, 429, 500, 503),
)
async def list_jobs(
    tier: TierOf,
    search: Annotated[str, Query(max_length=200, description="Part of a name, or of an id.")] = "",
    status: Annotated[Status | None, Query(description="Only jobs of this status.")] = None,
    pipeline: Annotated[str | None, Query(max_length=64, description="Only of this one.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most jobs to list.")] = 50,
) -> JobList:
    """The newest jobs that have begun to run, and those that this process has queued."""
    found, more = await tier.errands.call(tier.views.newest)
    wanted = search.casefold()
    chosen = [
        view
        for view in found
        if (not wanted or wanted in (view.name or "").casefold() or wanted in view.job_id)
        and status in {None, view.status}
        and pipeline in {None, view.pipeline}
    ]
    return JobList(jobs=chosen[:limit], more=more or len(chosen) > limit)


@router.get(
    "/{job_id}",
    operation_id="get_job",
    responses=responses(401, 403, 404, 422, 429, 500, 503),
)
async def get_job(
    tier: TierOf,
    job_id: JobId,
    wait: Annotated[
        float, Query(ge=0, le=300, description="Seconds to wait for the job's end.")
    ] = 0,
) -> JobView:
    """How a job stands."""
    view = await known_job(tier, job_id)
    if wait and view.status not in ENDED:
        with tier.admission.waits(), tier.newsroom.follow(job_id) as follower:
            await _end_within(follower, wait)
        view = await known_job(tier, job_id)
    return view


@router.get(
    "/{job_id}/events",
    operation_id="follow_job",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events named `job`, each a job as of then, up to its end.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **responses(401, 403, 404, 422, 429, 500, 503),
    },
)
async def follow_job(tier: TierOf, job_id: JobId) -> StreamingResponse:
    """Follow a job live, as server-sent events."""
    view = await known_job(tier, job_id)
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(_events(tier, view), headers=headers, media_type="text/event-stream")


@router.delete(
    "/{job_id}",
    operation_id="cancel_job",
    responses=responses(401, 403, 404, 409, 422, 429, 500, 503),
)
async def cancel_job(tier: TierOf, job_id: JobId) -> JobView:
    """Cancel a job that no worker has begun: it will not be run, whenever a worker comes."""
    view = await known_job(tier, job_id)
    if view.status == "cancelled":
        return view
    if view.status != "queued":
        raise _begun("has ended" if view.status in ENDED else "is being run")
    job = await tier.errands.call(tier.views.job, job_id)
    if job is None:
        raise _unknown()
    manifest = await tier.errands.call(tier.cancel, job)
    tier.newsroom.look_soon(job_id)
    if not manifest.cancelled:
        raise _begun("has ended")
    return with_manifest(view, manifest)


async def known_job(tier: Tier, job_id: str) -> JobView:
    """How a job stands.

    Raises:
        Problem: nothing is known of it.
    """
    view = await tier.errands.call(tier.views.find, job_id)
    if view is None:
        raise _unknown()
    return view


def _unknown() -> Problem:
    return Problem(
        404, "job_unknown", "There is no such job; or it came by an upload and waits for a worker."
    )


def _begun(doing: str) -> Problem:
    return Problem(409, "job_begun", f"The job {doing}; only one that waits can be cancelled.")


def _job(tier: Tier, body: JobRequest) -> Job:
    """The job that a request asks for; reads the objects' versions."""
    pipeline = find(body.pipeline)
    for key in body.inputs.values():
        if pipeline.place(key) is None:
            raise PermanentError(
                "key_unknown",
                f"{key!r} is no key of an input of {pipeline.name!r}.",
                "POST /v1/uploads gives keys.",
            )
    urls = {role: f"s3://{tier.input_bucket}/{key}" for role, key in body.inputs.items()}
    nonce = unique_folder() if body.force else ""
    return job_from_urls(pipeline, urls, body.params, nonce=nonce)


async def _end_within(follower: Follower, timeout_s: float) -> News | None:
    try:
        async with asyncio.timeout(timeout_s):
            return await follower.end()
    except TimeoutError:
        return None


async def _events(tier: Tier, view: JobView) -> AsyncIterator[str]:
    yield _event(view)
    if view.status in ENDED:
        return
    with tier.newsroom.follow(view.job_id) as follower:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    news = await follower.next()
            except TimeoutError:
                yield ": still there\n\n"
                continue
            if news.final:
                yield _event(await known_job(tier, view.job_id))
                return
            yield _event(view_of(view.job_id, news.meta))


def _event(view: JobView) -> str:
    return f"event: job\ndata: {view.model_dump_json()}\n\n"
