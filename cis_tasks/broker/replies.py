"""Results on their way from a worker to the process that waits for them, through SQS.

A process that waits has one reply queue. Its name, the address, travels with each task that the
process publishes; whoever ends the task sends a `Reply` there. Nothing rests on it: the result is
in S3 before the reply is sent, and who waits looks there too.
"""

from __future__ import annotations

import atexit
import base64
import json
import multiprocessing.util
import os
import queue
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from celery import signals, states
from celery.utils.log import get_logger

from cis_tasks.broker import clients
from cis_tasks.broker.clients import Access
from cis_tasks.broker.owners import SEEN_EVERY_S, Owner, seen

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

MAX_BATCH = 10  # messages per SQS call
MAX_WAIT_S = 20  # of a receive, SQS limit
CLOSE_S = 5.0  # for a queue that is being made when the process ends
MAX_PAYLOAD = 60_000  # bytes; SQS bills each 64 KiB of a message as one more call
RETENTION_S = 300  # a reply that nobody has fetched by then is in S3
VISIBILITY_S = 900  # longer than the retention: received once, a reply is never seen again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # between attempts at a queue that fails
MAX_PUBLISHED = 10_000  # tasks whose publishing this process remembers
MAX_UNCLAIMED_BYTES = 32 << 20  # replies that came before anybody asked for them
MAX_ADDRESSES = 1000  # whose queue URLs a worker remembers
ADDRESS = re.compile(r"[A-Za-z0-9_-]*reply-[0-9a-f]{32}")
GONE = ("NonExistentQueue", "QueueDoesNotExist")

log = get_logger(__name__)


@dataclass(frozen=True)
class Reply:
    """News of a task.

    Attributes:
        task_id: whose.
        status: its state.
        sent_at: when it was sent, in seconds since the epoch; replies may overtake one another.
        payload: its encoded result; None where that has to be read from S3.
    """

    task_id: str
    status: str
    sent_at: float
    payload: str | bytes | None

    def to_message(self) -> str:
        """The body of the SQS message; without the payload where that is too large for one."""
        payload, in_base64 = self.payload, False
        if isinstance(payload, bytes):
            payload, in_base64 = base64.b64encode(payload).decode(), True
        if payload is not None and len(payload) > MAX_PAYLOAD:
            payload = None
        return json.dumps(
            {
                "task_id": self.task_id,
                "status": self.status,
                "sent_at": self.sent_at,
                "payload": payload,
                "base64": in_base64,
            }
        )

    @classmethod
    def from_message(cls, body: str) -> Reply:
        """What `to_message` made.

        Raises:
            ValueError: it is something else.
        """
        try:
            read = json.loads(body)
            payload = read["payload"]
            if payload is not None and read["base64"]:
                payload = base64.b64decode(payload)
            return cls(str(read["task_id"]), str(read["status"]), float(read["sent_at"]), payload)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"This message is no reply: {body[:200]!r}") from error


@dataclass(frozen=True)
class Exchange:
    """Where the reply queues of an application are.

    Attributes:
        prefix: what the names of its queues begin with.
        access: how to reach SQS.
        wait_s: longest wait of one receive.
    """

    prefix: str
    access: Access
    wait_s: int = MAX_WAIT_S

    def new_address(self) -> str:
        """The name of a queue that nobody has used."""
        return f"{self.prefix}reply-{uuid.uuid4().hex}"

    def addresses(self, reply_to: object) -> list[str]:
        """The addresses in a message's ``reply_to``; what is not a reply queue here is none."""
        if not isinstance(reply_to, str):
            return []
        return [one for one in reply_to.split(",") if self._owns(one)]

    def _owns(self, address: str) -> bool:
        begins = address.startswith(f"{self.prefix}reply-")
        return begins and ADDRESS.fullmatch(address) is not None


@dataclass
class Published:
    """A task that this process published.

    Attributes:
        at: when, on the monotonic clock.
        answered: whether the reply to it has come.
    """

    at: float
    answered: bool = False


class Inbox:
    """Replies for one wait, which nobody else reads."""

    def __init__(self) -> None:
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()

    def put(self, reply: Reply) -> None:
        """Add a reply."""
        self._replies.put(reply)

    def take(self, wait_s: float) -> list[Reply]:
        """All replies that are there; waits for the first, at most ``wait_s``."""
        taken = []
        try:
            taken.append(self._replies.get(timeout=max(0.0, wait_s)))
            while True:
                taken.append(self._replies.get_nowait())
        except queue.Empty:
            return taken


class ReplyQueue:
    """This process's reply queue, shared by its threads.

    The queue is made when something is awaited for the first time, so a process that only
    publishes has none. One daemon thread receives, and only while somebody waits: an idle process
    makes no calls.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.address = exchange.new_address()
        self._exchange = exchange
        self._changed = threading.Condition()
        self._inboxes: dict[str, list[Inbox]] = {}
        self._published: OrderedDict[str, Published] = OrderedDict()
        self._unclaimed: OrderedDict[str, Reply] = OrderedDict()
        self._unclaimed_bytes = 0
        self._url: str | None = None
        self._live_since: float | None = None
        self._said_alive_at = 0.0
        self._seen: list[str] = []  # receipt handles to delete, ten at a time
        self._thread: threading.Thread | None = None
        self._making = self._closed = False

    @property
    def live_since(self) -> float | None:
        """Since when replies arrive, on the monotonic clock; None where they don't."""
        return self._live_since

    def note_published(self, task_id: str) -> None:
        """A task goes out with this address, so its reply will come."""
        with self._changed:
            self._published[task_id] = Published(time.monotonic())
            self._published.move_to_end(task_id)
            if len(self._published) > MAX_PUBLISHED:
                self._published.popitem(last=False)

    def published(self, task_id: str) -> Published | None:
        """What is known of a task that this process published; None for any other task."""
        return self._published.get(task_id)

    def forget(self, task_id: str) -> None:
        """Drop what has come for a task."""
        with self._changed:
            self._claim(task_id)

    @contextmanager
    def listen(self, task_ids: Collection[str], inbox: Inbox | None = None) -> Iterator[Inbox]:
        """Within the block, replies for these tasks come into the inbox.

        What came for them before is in it at once.

        Args:
            task_ids: whose replies.
            inbox: where they go, which may serve several blocks; one of its own if None.
        """
        inbox = Inbox() if inbox is None else inbox
        with self._changed:
            for task_id in task_ids:
                if (reply := self._claim(task_id)) is not None:
                    inbox.put(reply)
                self._inboxes.setdefault(task_id, []).append(inbox)
            if not self._closed and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="replies", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        try:
            yield inbox
        finally:
            with self._changed:
                for task_id in task_ids:
                    self._inboxes[task_id].remove(inbox)
                    if not self._inboxes[task_id]:
                        del self._inboxes[task_id]

    def close(self) -> None:
        """Delete the queue, also one that is being made; replies no longer come."""
        with self._changed:
            self._closed, self._live_since = True, None
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._making, CLOSE_S)
            url, self._url = self._url, None
        if url is None:
            return
        try:
            clients.sqs(self._exchange.access).delete_queue(QueueUrl=url)
        except Exception as error:  # the process is ending; a reaper removes what stays
            log.debug("the reply queue %s was not deleted: %s", self.address, error)

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self._somebody_waits():
            try:
                self._receive()
                pause_s = FIRST_PAUSE_S
            except Exception as error:
                if self._closed:
                    return
                if is_gone(error):
                    self._renew()
                else:
                    log.warning(
                        "no replies from %s, results are looked up in S3; next attempt in %.1f s: "
                        "%s",
                        *(self.address, pause_s, error),
                    )
                self._pause(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _somebody_waits(self) -> bool:
        with self._changed:
            while not self._inboxes and not self._closed:
                self._changed.wait()
            return not self._closed

    def _pause(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        with self._changed:
            while not self._closed and (left_s := until - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _receive(self) -> None:
        url = self._url or self._make()
        sqs = clients.sqs(self._exchange.access)
        self._say_alive(url)
        answer = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=MAX_BATCH, WaitTimeSeconds=self._exchange.wait_s
        )
        messages = answer.get("Messages", [])
        for message in messages:
            self._deliver(message)
        self._delete([message["ReceiptHandle"] for message in messages])

    def _make(self) -> str:
        with self._changed:
            if self._closed:
                raise InterruptedError("closed before it was made")
            self._making = True
        try:
            return self._create()
        finally:
            with self._changed:
                self._making = False
                self._changed.notify_all()

    def _create(self) -> str:
        """Make the queue; its tags say whose it is, so that only leftovers are ever removed."""
        url = clients.sqs(self._exchange.access).create_queue(
            QueueName=self.address,
            Attributes={
                "MessageRetentionPeriod": str(RETENTION_S),
                "VisibilityTimeout": str(VISIBILITY_S),
                "ReceiveMessageWaitTimeSeconds": str(self._exchange.wait_s),
            },
            tags=Owner.this().tags(self._exchange.prefix),
        )["QueueUrl"]
        with self._changed:
            if not self._closed:
                self._url = url
                self._live_since = self._said_alive_at = time.monotonic()
                # The children of multiprocessing end without atexit's callbacks.
                multiprocessing.util.Finalize(None, close_all, exitpriority=10)
                return url
        clients.sqs(self._exchange.access).delete_queue(QueueUrl=url)
        raise InterruptedError("closed while it was made")

    def _say_alive(self, url: str) -> None:
        """Tell reapers elsewhere that somebody uses the queue."""
        now = time.monotonic()
        if now - self._said_alive_at > SEEN_EVERY_S:
            clients.sqs(self._exchange.access).tag_queue(QueueUrl=url, Tags=seen())
            self._said_alive_at = now

    def _renew(self) -> None:
        """Take a new address; SQS refuses the name of a deleted queue for a minute."""
        with self._changed:
            log.warning("the reply queue %s was deleted; another is made", self.address)
            self.address = self._exchange.new_address()
            self._url = self._live_since = None
            self._seen.clear()
            self._published.clear()  # their replies go to the old address

    def _deliver(self, message: MessageTypeDef) -> None:
        try:
            reply = Reply.from_message(message["Body"])
        except ValueError as error:
            log.warning("%s on %s, passed over", error, self.address)
            return
        ended = reply.status in states.READY_STATES
        with self._changed:
            inboxes = self._inboxes.get(reply.task_id, ())
            for inbox in inboxes:
                inbox.put(reply)
            if not ended:
                return
            if not inboxes:
                self._keep(reply)
            if reply.task_id in self._published:
                self._published[reply.task_id].answered = True

    def _keep(self, reply: Reply) -> None:
        self._claim(reply.task_id)
        self._unclaimed[reply.task_id] = reply
        self._unclaimed_bytes += len(reply.payload or b"")
        while self._unclaimed_bytes > MAX_UNCLAIMED_BYTES:
            self._claim(next(iter(self._unclaimed)))

    def _claim(self, task_id: str) -> Reply | None:
        reply = self._unclaimed.pop(task_id, None)
        if reply is not None:
            self._unclaimed_bytes -= len(reply.payload or b"")
        return reply

    def _delete(self, handles: Sequence[str]) -> None:
        """Delete what was received, ten at a call; the last few end with their retention."""
        self._seen.extend(handles)
        if len(self._seen) < MAX_BATCH or self._url is None:
            return
        batch, self._seen = self._seen[:MAX_BATCH], self._seen[MAX_BATCH:]
        clients.sqs(self._exchange.access).delete_message_batch(
            QueueUrl=self._url,
            Entries=[{"Id": str(i), "ReceiptHandle": handle} for i, handle in enumerate(batch)],
        )


class Sender:
    """Sends replies to the processes that wait for them."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._urls: OrderedDict[str, str] = OrderedDict()

    def send(self, address: str, reply: Reply) -> None:
        """Send a reply; one that cannot be sent is found in S3 by whoever waits for it."""
        try:
            clients.sqs(self._exchange.access).send_message(
                QueueUrl=self._url(address), MessageBody=reply.to_message()
            )
        except (BotoCoreError, ClientError) as error:
            self._urls.pop(address, None)
            if is_gone(error):
                log.debug("nobody waits at %s", address)
            else:
                log.warning("no reply to %s for %s: %s", address, reply.task_id, error)

    def _url(self, address: str) -> str:
        url = self._urls.get(address)
        if url is None:
            sqs = clients.sqs(self._exchange.access)
            url = self._urls[address] = sqs.get_queue_url(QueueName=address)["QueueUrl"]
            while len(self._urls) > MAX_ADDRESSES:
                self._urls.popitem(last=False)
        return url


def reply_queue(exchange: Exchange) -> ReplyQueue:
    """The process's reply queue in ``exchange``; a forked child has one of its own."""
    with _process.lock:
        if exchange not in _process.queues:
            _process.queues[exchange] = ReplyQueue(exchange)
        return _process.queues[exchange]


def sender(exchange: Exchange) -> Sender:
    """The process's sender in ``exchange``."""
    with _process.lock:
        if exchange not in _process.senders:
            _process.senders[exchange] = Sender(exchange)
        return _process.senders[exchange]


def close_all(**_: object) -> None:
    """Delete this process's reply queues; it makes new ones should it wait again."""
    with _process.lock:
        queues = list(_process.queues.values())
        _process.queues.clear()
    for mine in queues:
        mine.close()


def is_gone(error: Exception) -> bool:
    """Whether SQS said that the queue does not exist."""
    return isinstance(error, ClientError) and any(
        name in error.response.get("Error", {}).get("Code", "") for name in GONE
    )


@dataclass
class _Process:
    lock: threading.Lock = field(default_factory=threading.Lock)
    queues: dict[Exchange, ReplyQueue] = field(default_factory=dict)
    senders: dict[Exchange, Sender] = field(default_factory=dict)


_process = _Process()


def _start_anew_in_child() -> None:
    """A forked child has none of its parent's queues, threads and locks."""
    global _process  # noqa: PLW0603
    _process = _Process()


os.register_at_fork(after_in_child=_start_anew_in_child)
atexit.register(close_all)
signals.worker_process_shutdown.connect(close_all, dispatch_uid=__name__)
