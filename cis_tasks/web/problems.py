"""What went wrong, as RFC 9457 problem documents, or one line where a dialect is plain text.

Source: https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from botocore.exceptions import BotoCoreError, ClientError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from cis_tasks.errors import JobError, PermanentError

MEDIA_TYPE = "application/problem+json"
PLAIN = "plain"
"""Attribute of ``request.state`` that is true where errors are one line of text."""

log = structlog.get_logger(__name__)


class Problem(Exception):  # noqa: N818  the RFC's word
    """A request that cannot be answered as asked.

    Attributes:
        status: HTTP status.
        code: stable identifier for programs, in ``snake_case``.
        detail: what is wrong, and what to do.
        headers: of the response.
        extra: further members of the document.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers, self.extra = dict(headers or {}), extra


class ProblemDocument(BaseModel):
    """RFC 9457: what went wrong with a request."""

    type: str = Field("about:blank", description="Always about:blank: `code` says what happened.")
    title: str = Field(description="The HTTP status in words.")
    status: int = Field(description="The HTTP status.")
    code: str = Field(description="Stable identifier of what happened.")
    detail: str = Field(description="What is wrong, and what to do.")
    instance: str | None = Field(None, description="The job concerned, as a path.")
    request_id: str | None = Field(None, description="Id of the request in the logs.")


def busy(code: str, detail: str, retry_after_s: int = 1) -> Problem:
    """A 503 that says when to come back."""
    return Problem(503, code, detail, headers={"Retry-After": str(retry_after_s)})


def of_job_error(error: JobError, *, job_url: str | None = None) -> Problem:
    """What an error of a job or of the way to one means to the client."""
    status = 422 if isinstance(error, PermanentError) else 503
    detail = f"{error.message} {error.hint}".strip()
    headers = {"Retry-After": "2"} if status == 503 else {}
    extra = {"instance": job_url} if job_url else {}
    return Problem(status, error.code, detail, headers=headers, **extra)


def install(app: FastAPI) -> None:
    """Let every error of ``app`` become a problem document."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(JobError, _on_job_error)
    app.add_exception_handler(ClientError, _on_aws)
    app.add_exception_handler(BotoCoreError, _on_aws)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_unexpected)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem documents of an operation, for its OpenAPI description."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status in statuses
    }


def plain_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for an operation whose errors are one line of text."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
        for status in statuses
    }


def response_for(problem: Problem, *, plain: bool) -> Response:
    """The response that tells of a problem."""
    if plain:
        line = " ".join(problem.detail.split())
        url = problem.extra.get("instance")
        text = f"{line} See {url}\n" if url else f"{line}\n"
        return PlainTextResponse(text, problem.status, problem.headers)
    document = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        **problem.extra,
    }
    if request_id := structlog.contextvars.get_contextvars().get("request_id"):
        document["request_id"] = request_id
    return JSONResponse(document, problem.status, problem.headers, MEDIA_TYPE)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101  registered for it alone
    return response_for(error, plain=getattr(request.state, PLAIN, False))


async def _on_job_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, JobError)  # noqa: S101  registered for it alone
    return await _on_problem(request, of_job_error(error))


async def _on_aws(request: Request, error: Exception) -> Response:
    log.warning("aws_unavailable", error=str(error))
    return await _on_problem(request, busy("aws_unavailable", "S3 or SQS does not answer.", 2))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for it alone
    details = {404: "There is nothing at this path.", 405: "This path does not take this method."}
    detail = details.get(error.status_code, str(error.detail))
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return await _on_problem(
        request, Problem(error.status_code, code, detail, headers=error.headers)
    )


async def _on_unexpected(request: Request, _: Exception) -> Response:
    detail = "Something went wrong on the server; its log knows the request by its id."
    return await _on_problem(request, Problem(500, "internal_error", detail))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for it alone
    detail = "; ".join(
        f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
        for found in error.errors()
    )
    return await _on_problem(request, Problem(422, "request_invalid", f"{detail}."))
