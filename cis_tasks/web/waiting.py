"""One request that waits for its job: to the answer, its deadline, or the client's leaving."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from celery import states
from fastapi import Request

from cis_tasks.errors import JobError, PublishError
from cis_tasks.jobs import Job
from cis_tasks.manifest import CANCELLED, Answer
from cis_tasks.web.bodies import read_upload
from cis_tasks.web.images import SentImage, inspect_image
from cis_tasks.web.news import Follower, News
from cis_tasks.web.problems import Problem, of_job_error
from cis_tasks.web.records import Record
from cis_tasks.web.tier import Tier
from cis_tasks.web.views import links_of

UNSTARTED = {states.PENDING, states.RECEIVED}

log = structlog.get_logger(__name__)


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


@dataclass(frozen=True)
class Taken:
    """An image that became a job.

    Attributes:
        image: the image, without its bytes.
        field: the form field that it came in.
        job: its job.
    """

    image: SentImage
    field: str
    job: Job


async def take_image(request: Request, tier: Tier, fields: Sequence[str]) -> Taken:
    """Read an image out of a request and put it into the input bucket.

    Args:
        request: the request.
        tier: the tier.
        fields: names that the form field may have.

    Raises:
        Problem: there is no such image in it.
        TransientError: S3 did not take it; nothing is left of it.
    """
    with tier.admission.holds() as held:
        upload = await read_upload(
            request, held, tier.settings.max_body_bytes, tier.settings.body_timeout_s
        )
        if upload.field not in fields:
            raise Problem(
                400,
                "field_unknown",
                f"The file came in the field {upload.field[:50]!r}; "
                f"send it as {' or '.join(fields)}.",
            )
        image = inspect_image(upload, tier.settings.max_pixels)
        job = await tier.intake.store(image, request.state.request_id)
    nothing_held = SentImage(image.stem, image.name, image.key, image.media_type, b"")
    return Taken(nothing_held, upload.field, job)


async def publish(tier: Tier, job: Job) -> None:
    """Queue a job on an image that was just stored, or leave nothing of it.

    Raises:
        PublishError: SQS did not take it.
    """
    try:
        await tier.intake.publish(job)
    except PublishError:
        await tier.intake.withdraw(job)
        raise


async def run(request: Request, tier: Tier, job: Job, timeout_s: float) -> News | None:
    """Queue a job and wait for its end; None where the time is over first.

    Raises:
        PublishError: SQS did not take it; nothing is left of it.
        ClientGoneError: the client left; the job is cancelled unless it has begun.
    """
    with tier.newsroom.follow(job.id, pushed=True) as follower:
        await publish(tier, job)
        try:
            return await end_or_gone(request, follower, timeout_s)
        except ClientGoneError:
            await abandon(tier, job, follower)
            raise


async def end_or_gone(request: Request, follower: Follower, timeout_s: float) -> News | None:
    """The end of a followed job; None where the time is over first.

    Raises:
        ClientGoneError: the client left.
    """
    end = asyncio.ensure_future(follower.end())
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({end, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if end.done():
            return end.result()
        if gone.done():
            raise ClientGoneError
        return None
    finally:
        end.cancel()
        gone.cancel()


async def abandon(tier: Tier, job: Job, follower: Follower) -> None:
    """Nobody waits for a job any more: cancel it, unless it has begun or somebody else does."""
    begun = follower.status not in UNSTARTED
    if begun or tier.newsroom.followers(job.id) > 1:
        log.info("client_gone", job_id=job.id, cancelled=False)
        return
    try:
        manifest = await tier.errands.call(tier.cancel, job)
    except Exception as error:  # it may be run for nobody, which does no harm
        log.warning("not_cancelled", job_id=job.id, error=str(error))
        return
    log.info("client_gone", job_id=job.id, cancelled=manifest.cancelled)
    if manifest.cancelled:
        await tier.intake.withdraw(job)


async def deadline_passed(request: Request, tier: Tier, job: Job) -> Problem:
    """The problem that names a job which goes on."""
    record = Record.now(job, request.state.request_id)
    tier.records.remember(record)
    await tier.errands.call(tier.records.write, record)
    url = links_of(job.id).self
    detail = f"The answer is not there after {tier.settings.deadline_s:g} s; the job goes on."
    return Problem(504, "deadline_passed", detail, instance=url)


def answer_of(job: Job, news: News) -> Answer:
    """The answer that came.

    Raises:
        Problem: there is none.
    """
    result = news.meta.get("result")
    if isinstance(result, Answer):
        return result
    url = links_of(job.id).self
    if news.status == states.REVOKED or getattr(result, "code", "") == CANCELLED:
        raise Problem(409, "job_cancelled", "The job was cancelled.", instance=url)
    if isinstance(result, JobError):
        raise of_job_error(result, job_url=url)
    log.error("job_gave_no_answer", job_id=job.id, result=repr(result))
    raise Problem(500, "no_answer", "The job ended without an answer.", instance=url)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
