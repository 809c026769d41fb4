"""The ASGI application of the web tier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp

import cis_tasks
from cis_tasks.web import (
    classifying,
    dialects,
    health,
    jobs,
    pages,
    problems,
    results,
    uploads,
)
from cis_tasks.web.envelope import Envelope, security_headers
from cis_tasks.web.metrics import Figures, Measured, told
from cis_tasks.web.settings import WebSettings, web_settings
from cis_tasks.web.tier import make_tier, running, s3_origins

ABOUT = """\
Images in, classes out; recordings in, spinal angles out. Answers come from workers behind a queue.

Errors are problem documents (RFC 9457), with a stable `code`; on the two plain dialects they are
one line of text. Every response carries `X-Request-ID`.
"""


def create_app(settings: WebSettings | None = None) -> ASGIApp:
    """The application, ready to be served; it asks AWS for nothing before that.

    Args:
        settings: how it behaves; read from the environment if None.

    Raises:
        SettingsError: a setting makes no sense.
    """
    tier = make_tier(settings or web_settings())
    figures = Figures(tier)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with told(tier, figures):
            async with running(tier):
                yield

    app = FastAPI(
        title="cis-tasks",
        version=cis_tasks.__version__,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,  # their scripts come from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.tier, app.state.figures = tier, figures
    problems.install(app)
    for part in (dialects, classifying, jobs, uploads, results, health, pages):
        app.include_router(part.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    origins = s3_origins(tier.s3, tier.input_bucket, tier.output_bucket)
    return Measured(Envelope(app, security_headers(origins)), figures)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The API's description; FastAPI's own form of a 422 gives way to ours."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        forms = schema["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            forms.pop(unused, None)
        forms["ProblemDocument"] = problems.ProblemDocument.model_json_schema()
        if not app.state.tier.settings.tokens:
            _say_open(schema)
        app.openapi_schema = schema
    return app.openapi_schema


def _say_open(schema: dict[str, Any]) -> None:
    """Take what is said of tokens out of a description: nobody is asked for one."""
    schema["components"].pop("securitySchemes", None)
    for path in schema["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
            operation["responses"].pop("401", None)
