"""Who may ask: tokens, the rate of each, and no browser on behalf of another site."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from cis_tasks.web.limits import retry_after
from cis_tasks.web.problems import PLAIN, Problem
from cis_tasks.web.settings import is_loopback
from cis_tasks.web.tier import Tier, tier_of
from cis_tasks.web.tokens import find_token, presented_in

bearer = HTTPBearer(
    auto_error=False, description="A token of `cis token`; not asked for on loopback without any."
)


async def guard(request: Request) -> None:
    """Let a request through, or not.

    Raises:
        Problem: it comes from another site's page, has no valid token, or is one too many.
    """
    tier = await tier_of(request)
    refuse_other_sites(request, loopback_only=not tier.settings.tokens)
    asker = _asker(request, tier)
    if wait_s := tier.rates.take(asker):
        tier.admission.refused += 1
        raise Problem(
            429,
            "too_many_requests",
            f"More than {tier.settings.rate_per_s:g} requests a second.",
            headers={"Retry-After": retry_after(wait_s)},
        )


async def plain(request: Request) -> None:
    """Let errors of this request be one line of text."""
    setattr(request.state, PLAIN, True)


def refuse_other_sites(request: Request, *, loopback_only: bool) -> None:
    """Refuse what a browser sends for a page of another site.

    A tier that is open on loopback would else be open to every page that its user visits: by a
    form that posts to it, or by a name that turns out to be 127.0.0.1.

    Raises:
        Problem: it is such a request.
    """
    host = urlsplit(f"//{request.headers.get('host', '')}")
    if loopback_only and host.hostname and not is_loopback(host.hostname):
        raise Problem(
            403, "host_refused", "Without tokens, this tier answers to its loopback name alone."
        )
    origin = request.headers.get("origin")
    if origin and origin != "null" and urlsplit(origin).netloc != host.netloc:
        raise Problem(403, "origin_refused", "Pages of other sites may not use this tier.")
    if origin == "null" or request.headers.get("sec-fetch-site") == "cross-site":
        raise Problem(403, "origin_refused", "Pages of other sites may not use this tier.")


def _asker(request: Request, tier: Tier) -> str:
    if not tier.settings.tokens:
        return "anybody"
    token = find_token(tier.settings.tokens, presented_in(request.headers.get("authorization", "")))
    if token is None:
        raise Problem(
            401,
            "token_invalid",
            "A valid token is needed: Authorization: Bearer TOKEN.",
            headers={"WWW-Authenticate": 'Bearer realm="cis-tasks"'},
        )
    structlog.contextvars.bind_contextvars(token=token.name)
    return token.name


GUARDED = [Security(bearer), Depends(guard)]
PLAIN_GUARDED = [Depends(plain), *GUARDED]
TierOf = Annotated[Tier, Depends(tier_of)]
