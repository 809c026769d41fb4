"""The page, and the few files that it is made of: all from this package."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from cis_tasks.pipelines import PIPELINES
from cis_tasks.web.guard import TierOf
from cis_tasks.web.problems import Problem
from cis_tasks.web.results import MAX_INLINE

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(request: Request) -> Response:
    """The page."""
    return _file(request, "index.html")


@router.get("/favicon.ico")
async def icon(request: Request) -> Response:
    """The icon, for browsers that ask for it by its old name."""
    return _file(request, "icon.svg")


@router.get("/static/{name}")
async def static(request: Request, name: str) -> Response:
    """One of the page's files."""
    return _file(request, name)


@router.get("/page.json")
async def about(tier: TierOf) -> Response:
    """What the page has to know before anybody has said who they are."""
    return JSONResponse(
        {
            "tokens": bool(tier.settings.tokens),
            "flower": tier.settings.flower_url,
            "max_body_bytes": tier.settings.max_body_bytes,
            "max_upload_bytes": tier.settings.max_upload_bytes,
            "max_inline_bytes": MAX_INLINE,
            "pipelines": {
                name: {
                    role.name: {"suffixes": role.suffixes, "required": role.required}
                    for role in pipeline.roles
                }
                for name, pipeline in PIPELINES.items()
            },
        }
    )


def _read() -> dict[str, tuple[bytes, str]]:
    folder = files(__package__).joinpath("static")
    found = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}
    return {
        name: (body, f'"{hashlib.sha256(body).hexdigest()[:32]}"') for name, body in found.items()
    }


_FILES = _read()


def _file(request: Request, name: str) -> Response:
    if name not in _FILES:
        raise Problem(404, "not_found", "There is nothing at this path.")
    body, etag = _FILES[name]
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    media_type = MEDIA_TYPES[name[name.rindex(".") :]]
    return Response(body, headers=headers, media_type=media_type)
