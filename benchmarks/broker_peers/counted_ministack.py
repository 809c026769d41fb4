"""ministack with every call counted, and failing at times if told to; a script of its own process.

It is the same for all clients, costs a few microseconds a call and sees what no client can say of
itself. ``GET /_calls`` answers with the counts; ``PUT /_faults/0.01`` lets one call in a hundred
fail from then on, in one of four ways (`FAULTS`), drawn from a generator that FAULT_SEED seeds.

ministack itself looks into a queue ten times a second while a long poll waits, which adds 50 ms
to each of a result's two queues. Here what is sent wakes the long polls, as on AWS, unless
WAKES is ``no``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

from ministack import app as ministack
from ministack.services import sqs

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]

HANG_S = 12.0  # longer than a careful client waits
#: Fault → (whether the call takes effect, whether it gets an answer in time). A lost answer is
#: the nasty one: what the client believes to have failed has happened.
FAULTS = {
    "refused": (False, True),
    "answer lost": (True, True),
    "timed out": (False, False),
    "timed out, done": (True, False),
}
WEIGHTS = (4, 4, 1, 1)


class LongPolls:
    """The long polls that wait, each asleep until something is sent or its time is over."""

    def __init__(self) -> None:
        self._asleep: set[asyncio.Future[None]] = set()

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or until woken."""
        waiting = asyncio.get_running_loop().create_future()
        self._asleep.add(waiting)
        try:
            await asyncio.wait([waiting], timeout=seconds)
        finally:
            self._asleep.discard(waiting)

    def wake(self) -> None:
        """Let all look again."""
        for waiting in self._asleep:
            if not waiting.done():
                waiting.set_result(None)


class Counted:
    """An ASGI application around ministack's."""

    def __init__(self, app: App, seed: int, polls: LongPolls) -> None:
        self._app = app
        self._polls = polls
        self._random = random.Random(seed)
        self._share = 0.0
        self._calls: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._deleted = 0  # messages, however many to a call

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Handle one request."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path.startswith("/_ministack"):
            await self._app(scope, receive, send)
        elif path == "/_calls":
            await self._answer_counts(send)
        elif path.startswith("/_faults/"):
            self._share = float(path.rpartition("/")[2])
            await self._answer_counts(send)
        else:
            body = await read(receive)
            await self._handle(scope, body, receive, send)

    async def _handle(
        self, scope: Mapping[str, Any], body: bytes, receive: Receive, send: Send
    ) -> None:
        name = operation(scope, body)
        self._calls[name] += 1
        if self._random.random() < self._share:
            await self._fail(scope, body, receive, send)
            return
        if name.startswith("sqs.DeleteMessage"):
            self._deleted += messages_in(body)
        await self._app(scope, replay(body, receive), send)
        if name.startswith(("sqs.SendMessage", "sqs.ChangeMessageVisibility", "sns.Publish")):
            self._polls.wake()

    async def _fail(
        self, scope: Mapping[str, Any], body: bytes, receive: Receive, send: Send
    ) -> None:
        fault = self._random.choices(list(FAULTS), WEIGHTS)[0]
        self._faults[fault] += 1
        takes_effect, answers = FAULTS[fault]
        if takes_effect:
            await self._app(scope, replay(body, receive), _into_the_void)
        if not answers:
            await asyncio.sleep(HANG_S)
        await answer(send, 503, INJECTED, "application/xml")

    async def _answer_counts(self, send: Send) -> None:
        counts = {"calls": self._calls, "deleted": self._deleted, "faults": self._faults}
        await answer(send, 200, json.dumps(counts).encode(), "application/json")


INJECTED = b"<Error><Code>ServiceUnavailable</Code><Message>injected</Message></Error>"


def operation(scope: Mapping[str, Any], body: bytes) -> str:
    """The call's kind, as ``sqs.ReceiveMessage`` or ``s3.PUT``."""
    headers = dict(scope["headers"])
    target = headers.get(b"x-amz-target", b"").decode()
    if target.startswith("AmazonSQS."):
        return f"sqs.{target.partition('.')[2]}"
    if target:
        return target
    if headers.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded"):
        action = parse_qs(body.decode()).get("Action", ["?"])[0]
        return f"{service_of(headers)}.{action}"
    return f"s3.{scope['method']}"


def service_of(headers: Mapping[bytes, bytes]) -> str:
    """The service that a request is signed for."""
    scope = headers.get(b"authorization", b"").decode().partition("Credential=")[2].split("/")
    return scope[3] if len(scope) > 3 else "?"


def messages_in(body: bytes) -> int:
    """How many messages a delete is about."""
    if body.startswith(b"{"):
        return len(json.loads(body).get("Entries", (None,)))
    return max(1, body.count(b".ReceiptHandle="))


async def read(receive: Receive) -> bytes:
    """The request's body."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that has the body, and then what the original one has."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return left.pop() if left else await receive()

    return next_message


async def answer(send: Send, status: int, body: bytes, content_type: str) -> None:
    """Send a whole response."""
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _into_the_void(_message: Message) -> None:
    """Send nothing."""


if __name__ == "__main__":
    polls = LongPolls()
    if os.environ.get("WAKES") != "no":
        sqs.asyncio = SimpleNamespace(**{**vars(asyncio), "sleep": polls.sleep})
    ministack.app = Counted(ministack.app, int(os.environ.get("FAULT_SEED", "0")), polls)
    ministack.main()
