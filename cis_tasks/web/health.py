"""Whether the tier lives, whether it is ready, and figures of what it does."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from cis_tasks.web.guard import GUARDED, TierOf
from cis_tasks.web.metrics import Figures
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
async def metrics(request: Request) -> PlainTextResponse:
    """Figures of this process, for Prometheus."""
    figures: Figures = request.app.state.figures
    return PlainTextResponse(figures.page(), media_type="text/plain; version=0.0.4")
