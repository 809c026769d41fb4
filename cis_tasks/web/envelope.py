"""Around every request: an id through the logs, security headers, an answer to every error."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "X-Request-ID"
GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
QUIET = {"/healthz", "/readyz", "/metrics"}

log = structlog.get_logger(__name__)


class Envelope:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        """Wrap ``app``.

        Args:
            app: what answers.
            headers: set on each response that does not set them itself.
        """
        self._app, self._headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        status, complete, started = 0, False, time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status, complete
            complete = not message.get("more_body", False)
            if message["type"] == "http.response.start":
                status, complete = message["status"], False
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception:
                log.exception("request_failed", path=scope["path"])
                if not (status and complete):  # the server then cuts the connection
                    raise
            finally:
                if scope["path"] not in QUIET:
                    seconds = round(time.perf_counter() - started, 4)
                    log.info(
                        "request",
                        method=scope["method"],
                        path=scope["path"],
                        status=status,
                        seconds=seconds,
                    )


def security_headers(s3_origin: str) -> dict[str, str]:
    """The headers of every response; the page may show and fetch what lies in S3.

    Args:
        s3_origin: scheme, host and port of presigned links.
    """
    policy = "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"img-src 'self' blob: {s3_origin}",
            f"connect-src 'self' {s3_origin}",
            "manifest-src 'self'",
            "form-action 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Cache-Control": "no-store",
    }


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
