"""Whether the tier lives, whether it is ready, and figures of what it does."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from cis_tasks.web.guard import GUARDED, TierOf
from cis_tasks.web.problems import busy, responses

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """That all is well."""

    status: str = "ok"


@router.get("/healthz", operation_id="healthz")
async def healthz() -> Health:
    """Whether the process answers."""
    return Health()


@router.get("/readyz", operation_id="readyz", responses=responses(503))
async def readyz(tier: TierOf) -> Health:
    """Whether answers of workers reach this process."""
    if not tier.newsroom.live:
        raise busy("no_reply_queue", "The reply queue is not there yet.")
    return Health()


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=PlainTextResponse,
    dependencies=GUARDED,
    responses=responses(401, 403, 429),
)
async def metrics(tier: TierOf) -> PlainTextResponse:
    """Figures of this process, for Prometheus."""
    figures = (
        ("waiting", "gauge", "Requests that wait for a job.", tier.admission.waiting),
        ("held_bytes", "gauge", "Bytes of images in memory.", tier.admission.held),
        ("refused_total", "counter", "Requests turned away.", tier.admission.refused),
        ("followed_jobs", "gauge", "Jobs that somebody follows.", tier.newsroom.followed),
        ("published_total", "counter", "Jobs put into queues.", tier.publisher.sent),
        ("publish_calls_total", "counter", "Calls to SQS for that.", tier.publisher.calls),
        ("looks_total", "counter", "Results looked up in S3.", tier.newsroom.looks),
    )
    text = "".join(
        f"# HELP cis_web_{name} {about}\n# TYPE cis_web_{name} {kind}\ncis_web_{name} {value}\n"
        for name, kind, about, value in figures
    )
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")
