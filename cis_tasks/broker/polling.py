"""Threads that poll the queues of this process, and the connections that read from them.

kombu polls from its event loop, which clients do not have, or in calls that outlast the time
their caller gave them. A thread per queue does neither: its long polls go on whoever waits, and
a reader waits as long as it wants to.
"""

from __future__ import annotations

import json
import logging
import threading
from base64 import b64decode
from binascii import Error as BinasciiError
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.broker import sequence
from cis_tasks.broker.attention import Attention

if TYPE_CHECKING:
    from cis_tasks.broker.owned import OwnedQueue

logger = logging.getLogger(__name__)

LONGEST_POLL_S = 20  # SQS limit
MAX_BATCH = 10  # SQS limit
MAX_BACKOFF_S = 30.0
GONE = {"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"}

Payload = dict[str, Any]


class Inbox:
    """What has arrived for one connection.

    Attributes:
        loop: the event loop that reads from it, where there is one.
    """

    def __init__(self, deliver: Callable[[str, Payload], None]) -> None:
        self.loop: Any = None
        self._deliver = deliver
        self._arrived: SimpleQueue[tuple[str, Payload | Exception]] = SimpleQueue()

    def put(self, queue: str, payload: Payload | Exception) -> None:
        """Take a message for a queue's consumer; from any thread."""
        self._arrived.put((queue, payload))
        if self.loop is not None:
            self.loop.call_soon(self.deliver_all)

    def deliver_all(self) -> None:
        """Hand over everything that has arrived; in the event loop's thread."""
        more = True
        while more:
            try:
                more = self.deliver(timeout_s=0)
            except ConnectionError:
                raise
            except Exception:  # one bad message must not stop a worker
                logger.exception("A message on a control queue could not be handled")

    def deliver(self, timeout_s: float | None) -> bool:
        """Hand over the next message.

        Args:
            timeout_s: how long to wait for it; None for as long as it takes.

        Returns:
            False where none has arrived in time.

        Raises:
            ConnectionError: a queue that is read from is gone.
        """
        try:
            if timeout_s is None or timeout_s > 0:
                queue, payload = self._arrived.get(timeout=timeout_s)
            else:
                queue, payload = self._arrived.get_nowait()
        except Empty:
            return False
        if isinstance(payload, Exception):
            raise payload
        self._deliver(queue, payload)
        return True


class Poller:
    """Polls one queue while somebody reads from it.

    Args:
        queue: the queue.
        attention: lets it rest while it lapses; None to poll all the time.
        routes: whether each message goes to the reader it is addressed to, rather than to all.
    """

    def __init__(self, queue: OwnedQueue, *, attention: Attention | None, routes: bool) -> None:
        self._queue = queue
        self._attention = attention
        self._routes = routes
        self._lock = threading.Lock()
        self._readers: dict[str, Inbox] = {}
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self.gone = False  # somebody has deleted the queue

    def attach(self, name: str, inbox: Inbox) -> None:
        """Read for the consumer of the queue that AMQP calls ``name``."""
        with self._lock:
            self._readers[name] = inbox
            if self._thread is None:
                self._stopped.clear()
                self._thread = threading.Thread(
                    target=self._run, name=f"poll-{self._queue.name}", daemon=True
                )
                self._thread.start()

    def detach(self, name: str, inbox: Inbox) -> None:
        """Read no more; a poll that is under way goes on, for whoever reads next."""
        with self._lock:
            if self._readers.get(name) is inbox:
                del self._readers[name]

    def stop(self) -> None:
        """End, with nobody reading any more."""
        with self._lock:
            self._readers.clear()
        self._stopped.set()

    def _run(self) -> None:
        failures = 0
        while not self._ended():
            try:
                arrived = self._receive()
                self._queue.say_alive()
            except Exception as error:  # the thread must outlive whatever is wrong just now
                if is_gone(error):
                    return self._fail(error)
                failures += 1
                self._wait_after(error, failures)
                continue
            failures = 0
            if not arrived and self._attention is not None:
                self._attention.rest(self._stopped)
        return None

    def _ended(self) -> bool:
        with self._lock:
            if self._readers:
                return False
            self._thread = None
            return True

    def _receive(self) -> bool:
        """One long poll."""
        queue = self._queue
        messages = queue.sqs.receive_message(
            QueueUrl=queue.url, MaxNumberOfMessages=MAX_BATCH, WaitTimeSeconds=queue.wait_s
        ).get("Messages", [])
        if not messages:
            return False
        self._delete(messages)
        for message in messages:
            payload = parse(message.get("Body", ""))
            if payload is None:
                logger.warning("Dropped a message on %s that is not Celery's", queue.name)
            else:
                self._hand_over(payload)
        return True

    def _delete(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Delete messages before they take effect, so that each does so once."""
        try:
            self._queue.sqs.delete_message_batch(
                QueueUrl=self._queue.url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ],
            )
        except (ClientError, BotoCoreError) as error:  # better twice than never
            logger.warning("Messages on %s could not be deleted: %s", self._queue.name, error)

    def _hand_over(self, payload: Payload) -> None:
        sequence.await_job_before(payload.get("headers") or {})
        with self._lock:
            readers = dict(self._readers)
        if self._routes:
            name = address(payload)
            readers = {name: readers[name]} if name in readers else {}  # else nobody waits for it
        for name, inbox in readers.items():
            inbox.put(name, payload)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            readers, self._readers, self._thread = self._readers, {}, None
            self.gone = True
        for name, inbox in readers.items():
            inbox.put(name, ConnectionError(f"The queue {self._queue.name} is gone: {error}"))

    def _wait_after(self, error: Exception, failures: int) -> None:
        if self._stopped.is_set():
            return
        pause_s = min(2.0 ** (failures - 1), MAX_BACKOFF_S)
        logger.warning(
            "%s could not be polled, trying again in %.0f s: %r", self._queue.name, pause_s, error
        )
        self._stopped.wait(pause_s)


def is_gone(error: Exception) -> bool:
    """Whether an error of boto3's says that the queue does not exist."""
    return isinstance(error, ClientError) and error.response["Error"]["Code"] in GONE


def parse(body: str) -> Payload | None:
    """The message in an SQS message's body, with or without base64; None where there is none."""
    text = body.strip()
    if not text.startswith("{"):
        try:
            text = b64decode(text, validate=True).decode()
        except (BinasciiError, UnicodeDecodeError, ValueError):
            return None
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return payload if _is_message(payload) else None


def address(payload: Payload) -> str:
    """The AMQP name of the reply queue that a message is for."""
    info = payload["properties"]["delivery_info"]
    return f"{info.get('routing_key')}.{info.get('exchange')}"


def _is_message(payload: object) -> bool:
    if not isinstance(payload, Mapping) or not isinstance(payload.get("body"), str):
        return False
    properties = payload.get("properties")
    return (
        isinstance(properties, Mapping)
        and isinstance(properties.get("delivery_info"), Mapping)
        and isinstance(properties.get("delivery_tag"), str)
        and isinstance(payload.get("headers", {}), Mapping)
    )
