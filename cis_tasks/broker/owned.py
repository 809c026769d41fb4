"""The queues that this process owns: created, polled and, when it exits, deleted by it.

Mailboxes of workers, reply queues of clients and event queues of monitors. They are standard
queues with a short retention, tagged with their owner. A forked child owns none of its parent's.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from celery import signals

from cis_tasks.broker.attention import Attention
from cis_tasks.broker.owners import SEEN_EVERY_S, SUBSCRIPTION_TAG, Owner, seen
from cis_tasks.broker.polling import LONGEST_POLL_S, Poller, is_gone

logger = logging.getLogger(__name__)

Key = tuple[Any, ...]

RETENTION_S = 300  # a command or reply older than this is nobody's any more


class OwnedQueue:
    """One queue of this process.

    Args:
        sqs: a boto3 client for it.
        name: its name in SQS.
        attention: slows its polling down while nobody needs it; None never does.
        routes: whether it serves many readers, each for what is addressed to it alone.
        wait_s: how long one poll waits.
    """

    def __init__(
        self,
        sqs: Any,
        name: str,
        *,
        attention: Attention | None = None,
        routes: bool = False,
        wait_s: int = LONGEST_POLL_S,
    ) -> None:
        self.sqs = sqs
        self.name = name
        self.url = ""
        self.wait_s = wait_s
        self.poller = Poller(self, attention=attention, routes=routes)
        self._subscriptions: dict[str, tuple[Any, str]] = {}
        self._seen_at = 0.0

    def create(self, tags: dict[str, str], attributes: dict[str, str]) -> None:
        """Create it in SQS.

        Raises:
            ClientError: SQS refuses.
        """
        self.url = self.sqs.create_queue(
            QueueName=self.name,
            Attributes={
                "MessageRetentionPeriod": str(RETENTION_S),
                "ReceiveMessageWaitTimeSeconds": "20",
                **attributes,
            },
            tags=tags,
        )["QueueUrl"]
        self._seen_at = time.monotonic()

    def arn(self) -> str:
        """Its ARN."""
        answer = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        return str(answer["Attributes"]["QueueArn"])

    def subscribed(self, topic_arn: str) -> bool:
        """Whether it gets what is published to a topic."""
        return topic_arn in self._subscriptions

    def add_subscription(self, topic_arn: str, sns: Any, arn: str) -> None:
        """Note a subscription, in its tags too, for whoever has to clear it away."""
        self._subscriptions[topic_arn] = (sns, arn)
        number = len(self._subscriptions)
        self.sqs.tag_queue(QueueUrl=self.url, Tags={f"{SUBSCRIPTION_TAG}-{number}": arn})

    @property
    def topics(self) -> list[str]:
        """The ARNs of the topics that it is subscribed to."""
        return list(self._subscriptions)

    def say_alive(self) -> None:
        """Renew the owner's sign of life in the tags, where it is due.

        Raises:
            ClientError: the queue is gone, or SQS refuses.
        """
        if time.monotonic() - self._seen_at > SEEN_EVERY_S:
            self._seen_at = time.monotonic()
            self.sqs.tag_queue(QueueUrl=self.url, Tags=seen())

    def exists(self) -> bool:
        """Whether nobody has deleted it, as far as is known."""
        try:
            self.say_alive()
        except ClientError as error:
            return not is_gone(error)
        return not self.poller.gone

    def drop(self) -> None:
        """Delete it with its subscriptions; what cannot be deleted is left to the reaper."""
        self.poller.stop()
        for sns, arn in self._subscriptions.values():
            _try(partial(sns.unsubscribe, SubscriptionArn=arn), arn)
        self._subscriptions.clear()
        if self.url:
            _try(partial(self.sqs.delete_queue, QueueUrl=self.url), self.url)


class Belongings:
    """What one process owns, shared by all its connections."""

    def __init__(self) -> None:
        self.owner = Owner.this()
        self.attention = Attention()
        self.lock = threading.RLock()
        self._queues: dict[Key, OwnedQueue] = {}
        self._clients: dict[Key, Any] = {}
        self._topic_arns: dict[Key, dict[str, str]] = {}

    def client(self, key: Key, make: Callable[[], Any]) -> Any:
        """The client made for ``key``, made when first asked for: clients are slow to make."""
        with self.lock:
            if key not in self._clients:
                self._clients[key] = make()
            return self._clients[key]

    def topic_arns(self, *key: Any) -> dict[str, str]:
        """The topics found for ``key``, to be added to."""
        return self._topic_arns.setdefault(key, {})

    def find(self, key: Key) -> OwnedQueue | None:
        """The queue added as ``key``."""
        return self._queues.get(key)

    def add(self, key: Key, queue: OwnedQueue) -> None:
        """Own a queue from now on."""
        if not self._queues:
            # The children of multiprocessing end without atexit's callbacks.
            multiprocessing.util.Finalize(None, drop_all, exitpriority=10)
        self._queues[key] = queue

    def drop(self, key: Key) -> None:
        """Delete the queue added as ``key``, if there is one."""
        with self.lock:
            queue = self._queues.pop(key, None)
        if queue is not None:
            queue.drop()

    def drop_all(self) -> None:
        """Delete everything that this process created."""
        for key in list(self._queues):
            self.drop(key)


def belongings() -> Belongings:
    """What the calling process owns."""
    return _belongings


def drop_all(**_: object) -> None:
    """Delete what the calling process owns, and nothing of its parent's."""
    _belongings.drop_all()


def _try(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except (ClientError, BotoCoreError) as error:
        if not is_gone(error):
            logger.warning("%s was left behind, for the reaper: %s", what, error)


def _start_anew() -> None:
    global _belongings  # noqa: PLW0603  a child must neither use nor delete its parent's
    _belongings = Belongings()


_belongings = Belongings()
atexit.register(drop_all)
signals.worker_process_shutdown.connect(drop_all, dispatch_uid=__name__)
os.register_at_fork(after_in_child=_start_anew)
