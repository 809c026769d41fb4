"""Webhooks: signed, tried again, noted in S3, and never sent to an address inside.

The form of the request is that of Standard Webhooks: the headers ``webhook-id``,
``webhook-timestamp`` and ``webhook-signature``, an HMAC-SHA256 over all three parts.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog

from cis_tasks.broker.objects import ConditionError, Objects
from cis_tasks.jobs import Job
from cis_tasks.settings import WEB_PREFIX
from cis_tasks.web.news import Newsroom
from cis_tasks.web.outbound import Refused, Target, parse_target, post
from cis_tasks.web.problems import Problem
from cis_tasks.web.schemas import ENDED, JobView
from cis_tasks.web.settings import WebSettings
from cis_tasks.web.views import Views

PREFIX = f"{WEB_PREFIX}webhooks/"
SWEEPS_PER_LEASE = 4
SENDERS = 8
LONGEST_BACKOFF_S = 3600.0

Returned = TypeVar("Returned")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Webhook:
    """Somebody to tell of a job's end.

    Attributes:
        url: where.
        job_id: whose end.
        attempts: how often it was tried.
        due_at: when another process may take it over, in seconds since the epoch.
    """

    url: str
    job_id: str
    attempts: int = 0
    due_at: float = 0.0

    @property
    def id(self) -> str:
        """What its repetitions have in common."""
        return f"{self.job_id}-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}"

    @property
    def key(self) -> str:
        """Where it is noted."""
        return f"{self.id}.json"

    def leased(self, for_s: float) -> Webhook:
        """The same, not to be taken over for a while."""
        return replace(self, due_at=time.time() + for_s)

    def to_json(self) -> bytes:
        """As it is noted."""
        return json.dumps(asdict(self)).encode()


class Courier:
    """Delivers webhooks, each until it is taken or its attempts have run out."""

    def __init__(
        self, settings: WebSettings, objects: Objects, newsroom: Newsroom, views: Views
    ) -> None:
        self._settings, self._newsroom, self._views = settings, newsroom, views
        self._objects = Objects(objects.bucket, PREFIX, objects.access)
        self._lease_s = settings.webhook_lease_s
        self._threads = ThreadPoolExecutor(SENDERS, thread_name_prefix="webhooks")
        self._running: dict[str, asyncio.Task[None]] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take over what processes that ended have left."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Stop; what is not delivered stays noted for another process."""
        tasks = [task for task in (self._sweeper, *self._running.values()) if task]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check(self, url: str) -> Target:
        """Whether a URL could be told at all; who it leads to is checked when it is.

        Raises:
            Problem: it could not.
        """
        if not self._settings.webhook_secret:
            raise Problem(
                422, "webhooks_off", "This server sends no webhooks: it has no secret to sign with."
            )
        try:
            return parse_target(url, private=self._settings.webhook_private)
        except Refused as error:
            raise Problem(422, "webhook_refused", str(error)) from None

    async def accept(self, url: str, job: Job) -> None:
        """Note that a job's end is to be told."""
        webhook = Webhook(url, job.id).leased(self._lease_s)
        await self._call(self._objects.put, webhook.key, webhook.to_json())
        self._begin(webhook)

    async def drop(self, url: str, job: Job) -> None:
        """A job was not queued after all, so it will have no end to tell."""
        webhook = Webhook(url, job.id)
        if task := self._running.get(webhook.id):
            task.cancel()
        await self._call(self._objects.delete, [webhook.key])

    def _begin(self, webhook: Webhook) -> None:
        if webhook.id in self._running:
            return
        task = asyncio.create_task(self._deliver(webhook))
        self._running[webhook.id] = task
        task.add_done_callback(lambda _: self._running.pop(webhook.id, None))

    async def _deliver(self, webhook: Webhook) -> None:
        try:
            view = await self._wait(webhook)
            for attempt in range(webhook.attempts, self._settings.webhook_attempts):
                if await self._try(webhook, view):
                    break
                wait_s = min(self._settings.webhook_backoff_s * 2**attempt, LONGEST_BACKOFF_S)
                noted = replace(webhook, attempts=attempt + 1).leased(wait_s + self._lease_s)
                await self._call(self._objects.put, webhook.key, noted.to_json())
                await asyncio.sleep(wait_s)
            else:
                log.warning("webhook_given_up", webhook=webhook.id, job_id=webhook.job_id)
            await self._call(self._objects.delete, [webhook.key])
        except Exception as error:  # it stays noted, and is taken over later
            log.warning("webhook_interrupted", webhook=webhook.id, error=str(error))

    async def _wait(self, webhook: Webhook) -> JobView:
        with self._newsroom.follow(webhook.job_id) as follower:
            while True:
                view = await self._call(self._views.find, webhook.job_id)
                if view is not None and view.status in ENDED:
                    return view
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._lease_s / 2):
                        await follower.end()
                        continue
                kept = webhook.leased(self._lease_s)
                await self._call(self._objects.put, webhook.key, kept.to_json())

    async def _try(self, webhook: Webhook, view: JobView) -> bool:
        """One attempt; whether it was taken."""
        body = json.dumps(
            {
                "type": "job.ended",
                "timestamp": datetime.now(UTC).isoformat(),
                "data": view.model_dump(mode="json"),
            }
        ).encode()
        headers = sign(self._settings.webhook_secret, webhook.id, int(time.time()), body)
        try:
            target = parse_target(webhook.url, private=self._settings.webhook_private)
            status = await self._call(post, target, body, headers)
        except (Refused, OSError) as error:
            log.info("webhook_failed", webhook=webhook.id, job_id=view.job_id, error=str(error))
            return False
        log.info("webhook_sent", webhook=webhook.id, job_id=view.job_id, status=status)
        return 200 <= status < 300

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / SWEEPS_PER_LEASE)
            try:
                for webhook in await self._call(self._take_over):
                    self._begin(webhook)
            except Exception as error:  # S3 is away; the next sweep may find it
                log.warning("webhooks_not_swept", error=str(error))

    def _take_over(self) -> list[Webhook]:
        """Claim what nobody has worked on for longer than its lease."""
        taken = []
        for listed in list(self._objects.list("")):
            stored = self._objects.get(listed.key)
            if stored is None:
                continue
            webhook = Webhook(**json.loads(stored.body))
            if webhook.due_at > time.time() or webhook.id in self._running:
                continue
            mine = webhook.leased(self._lease_s)
            with suppress(ConditionError):
                self._objects.replace(listed.key, mine.to_json(), stored.etag)
                taken.append(mine)
        return taken

    async def _call(self, function: Callable[..., Returned], *args: Any) -> Returned:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that prove a webhook's origin.

    Args:
        secret: the key.
        webhook_id: the same for all repetitions, so that a receiver can drop them.
        timestamp: seconds since the epoch, so that a receiver can refuse old ones.
        body: what is sent.
    """
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    digest = hmac.digest(secret.encode(), signed, hashlib.sha256)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
