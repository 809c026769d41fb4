"""``POST /v1/images``: one image, answered at once, after a wait, or by its job's URL."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from cis_tasks.errors import PublishError
from cis_tasks.web.guard import GUARDED, TierOf
from cis_tasks.web.problems import Problem, responses
from cis_tasks.web.records import Record
from cis_tasks.web.schemas import JobView
from cis_tasks.web.tier import Tier
from cis_tasks.web.views import links_of, queued, view_of
from cis_tasks.web.waiting import ClientGoneError, Taken, answer_of, publish, run, take_image

FIELD = "image"
MAX_WAIT_S = 300

FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "string",
                            "contentMediaType": "application/octet-stream",
                            "minLength": 1,
                            "description": "A JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF image.",
                        }
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}

router = APIRouter(tags=["images"], dependencies=GUARDED)


@router.post(
    "/v1/images",
    operation_id="post_image",
    openapi_extra=FORM,
    response_model=JobView,
    responses={
        200: {"description": "The job has ended and has an answer."},
        202: {"description": "The job is queued or runs.", "model": JobView},
        **responses(400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503),
    },
)
async def post_image(
    request: Request,
    tier: TierOf,
    wait: Annotated[
        float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the answer.")
    ] = 0,
    webhook: Annotated[
        str | None, Query(max_length=2000, description="URL that is told of the job's end.")
    ] = None,
) -> Response:
    """Classify one image.

    Without `wait`, or where the job takes longer, the answer is 202 with the job's URL.
    """
    if webhook is not None:
        tier.courier.check(webhook)
    with tier.admission.waits():
        taken = await take_image(request, tier, (FIELD,))
        record = Record.now(taken.job, request.state.request_id)
        if webhook is not None:
            await tier.courier.accept(webhook, taken.job)
        try:
            ended = await _wait(request, tier, taken, wait) if wait else None
            if not wait:
                await publish(tier, taken.job)
        except PublishError:
            if webhook is not None:
                await tier.courier.drop(webhook, taken.job)
            raise
        if ended is not None:
            return _json(200, ended)
        tier.records.remember(record)
        await tier.errands.call(tier.records.write, record)
        return accepted(queued(record))


def accepted(view: JobView) -> Response:
    """A 202 that says where to look."""
    return _json(202, view, {"Location": links_of(view.job_id).self})


async def _wait(request: Request, tier: Tier, taken: Taken, wait_s: float) -> JobView | None:
    try:
        news = await run(request, tier, taken.job, wait_s)
    except ClientGoneError:
        raise Problem(400, "client_gone", "The client went away.") from None
    if news is None:
        return None
    answer_of(taken.job, news)
    return view_of(taken.job.id, news.meta, taken.job)


def _json(status: int, view: JobView, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(view.model_dump(mode="json"), status, headers)
