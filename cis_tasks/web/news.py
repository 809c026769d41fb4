"""News of jobs for any number of waiting requests, on one event loop and one thread.

Celery's ``AsyncResult.get`` holds a thread for each wait. Here all waits share the process's
reply queue and its one receiving thread; a reply resolves whoever follows its task. What no reply
tells (another process published the job, or a reply was lost) is looked up in S3, at a rate that
does not depend on how many wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from celery import states

from cis_tasks.broker.replies import Inbox, Reply, close_all
from cis_tasks.broker.results import Backend
from cis_tasks.web.intake import Threads

TICK_S = 0.2  # between two looks into S3
LOOKS, PUSHED_LOOKS = 8, 2  # tasks at each, without a reply to come and with one
PUSHED_FIRST_S, PUSHED_LONGEST_S = 4.0, 60.0  # until S3 is asked, where a reply should come
OTHER_FIRST_S, OTHER_LONGEST_S = 0.3, 3.0  # where none will
GROWTH = 1.7
LIVE_TIMEOUT_S = 30.0
IDLE = "web-tier-listens"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class News:
    """A state of a task.

    Attributes:
        status: Celery's name of it.
        meta: all that the result backend tells, its result decoded.
    """

    status: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def final(self) -> bool:
        """Whether nothing comes after it."""
        return self.status in states.READY_STATES


class Follower:
    """One request's view of a job.

    Attributes:
        status: the newest state that is known, whether or not it was waited for.
    """

    def __init__(self) -> None:
        self.status = states.PENDING
        self._news: asyncio.Queue[News] = asyncio.Queue()

    async def next(self) -> News:
        """Wait for the next news."""
        return await self._news.get()

    async def end(self) -> News:
        """Wait for the last of all news."""
        while not (news := await self._news.get()).final:
            pass
        return news

    def tell(self, news: News) -> None:
        """Something has happened."""
        self.status = news.status
        self._news.put_nowait(news)


@dataclass
class _Topic:
    """A job that somebody follows."""

    followers: list[Follower] = field(default_factory=list)
    listening: ExitStack = field(default_factory=ExitStack)
    address: str | None = None
    look_at: float = 0.0
    pause_s: float = OTHER_FIRST_S
    last: tuple[str, str] = ("", "")
    news: News | None = None
    sent_at: float = 0.0

    def is_pushed(self, address: str) -> bool:
        """Whether its replies come to ``address``."""
        return self.address == address


class Newsroom:
    """Where this process learns of jobs. One per process, on one event loop."""

    def __init__(self, backend: Backend, threads: Threads) -> None:
        self._backend, self._threads = backend, threads
        self._topics: dict[str, _Topic] = {}
        self._looker: asyncio.Task[None] | None = None
        self._idle = ExitStack()
        self.looks = 0

    @property
    def address(self) -> str:
        """Where the replies to what this process publishes are to go."""
        return self._backend.replies.address

    @property
    def live(self) -> bool:
        """Whether replies arrive."""
        return self._backend.replies.live_since is not None

    @property
    def followed(self) -> int:
        """How many jobs are followed."""
        return len(self._topics)

    def start(self) -> None:
        """Begin to listen; the reply queue is made in the background."""
        self._inbox = _Door(asyncio.get_running_loop(), self)
        self._idle.enter_context(self._backend.replies.listen([IDLE], self._inbox))
        self._looker = asyncio.create_task(self._look_all())

    async def wait_live(self, timeout_s: float = LIVE_TIMEOUT_S) -> bool:
        """Wait until replies arrive; False where they do not in time."""
        deadline = time.monotonic() + timeout_s
        while not self.live and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return self.live

    async def stop(self) -> None:
        """Stop listening, and delete the reply queue: who ends by a signal has no atexit."""
        if self._looker:
            self._looker.cancel()
            with suppress(asyncio.CancelledError):
                await self._looker
        self._idle.close()
        await self._threads.call(close_all)

    @contextmanager
    def follow(self, job_id: str, *, pushed: bool = False) -> Iterator[Follower]:
        """Within the block, news of a job come to the follower, beginning with the newest known.

        Args:
            job_id: which job.
            pushed: whether it is published with `address` from within the block.
        """
        topic = self._topics.get(job_id)
        if topic is None:
            topic = self._topics[job_id] = _Topic(look_at=time.monotonic())
            replies = self._backend.replies
            topic.listening.enter_context(replies.listen([job_id], self._inbox))
        if pushed:
            topic.address, topic.pause_s = self.address, PUSHED_FIRST_S
            topic.look_at = time.monotonic() + PUSHED_FIRST_S
        follower = Follower()
        if topic.news is not None:
            follower.tell(topic.news)
        topic.followers.append(follower)
        try:
            yield follower
        finally:
            topic.followers.remove(follower)
            if not topic.followers:
                topic.listening.close()
                del self._topics[job_id]

    def followers(self, job_id: str) -> int:
        """How many requests of this process follow a job."""
        topic = self._topics.get(job_id)
        return len(topic.followers) if topic else 0

    def tell(self, job_id: str, news: News, sent_at: float) -> None:
        """Pass news on to whoever follows the job; twice the same is told once."""
        topic = self._topics.get(job_id)
        if topic is None or sent_at < topic.sent_at:
            return
        fingerprint = (news.status, "" if news.final else repr(news.meta.get("result")))
        if fingerprint == topic.last or (topic.news is not None and topic.news.final):
            return
        topic.last, topic.news, topic.sent_at = fingerprint, news, sent_at
        for follower in topic.followers:
            follower.tell(news)

    def look_soon(self, job_id: str) -> None:
        """S3 has more than a message could carry."""
        if topic := self._topics.get(job_id):
            topic.look_at = 0.0

    def decode(self, payload: str | bytes) -> News:
        """News from what a worker encoded."""
        meta = self._backend.decode_result(payload)
        return News(meta["status"], meta)

    async def _look_all(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if due := self._due(time.monotonic()):
                await self._look(due)

    def _due(self, now: float) -> list[str]:
        """What to look up now: those that no reply tells of first, and few of the others."""
        told: dict[bool, list[tuple[float, str]]] = {False: [], True: []}
        for job_id, topic in self._topics.items():
            if topic.look_at <= now and not (topic.news and topic.news.final):
                told[topic.is_pushed(self.address)].append((topic.look_at, job_id))
        due = [*sorted(told[False])[:LOOKS], *sorted(told[True])[:PUSHED_LOOKS]]
        return [job_id for _, job_id in due]

    async def _look(self, job_ids: list[str]) -> None:
        self.looks += len(job_ids)
        asked_at = time.time()
        try:
            found = await self._threads.call(self._backend.look_up, job_ids)
        except Exception as error:  # the next look may succeed; a wait has its deadline
            log.warning("results_not_read", error=str(error))
            found = {}
        for job_id in job_ids:
            topic, meta = self._topics.get(job_id), found.get(job_id)
            if topic is None:
                continue
            pushed = topic.is_pushed(self.address)
            longest_s = PUSHED_LONGEST_S if pushed else OTHER_LONGEST_S
            topic.pause_s = min(topic.pause_s * GROWTH, longest_s)
            topic.look_at = time.monotonic() + topic.pause_s
            if meta is not None:
                self.tell(job_id, News(meta["status"], meta), asked_at)


class _Door(Inbox):
    """Takes replies from the receiving thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, newsroom: Newsroom) -> None:
        super().__init__()
        self._loop, self._newsroom = loop, newsroom

    def put(self, reply: Reply) -> None:
        """Pass a reply on; what is in it is decoded here, beside the loop."""
        with suppress(RuntimeError):  # the loop has ended
            if reply.payload is not None:
                news = self._newsroom.decode(reply.payload)
                tell = self._newsroom.tell
                self._loop.call_soon_threadsafe(tell, reply.task_id, news, reply.sent_at)
            elif reply.status in states.READY_STATES:
                self._loop.call_soon_threadsafe(self._newsroom.look_soon, reply.task_id)
