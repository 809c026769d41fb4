"""Queues of remote control, replies and events: dynamic, prefixed, owned by one process."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from queue import Empty
from typing import Any, Literal

from botocore.client import Config
from botocore.exceptions import ClientError
from kombu.transport import SQS, virtual
from kombu.transport.SQS.SNS import SNS
from kombu.transport.virtual.base import queue_declare_ok_t  # type: ignore[attr-defined]
from kombu.utils.json import dumps

from cis_tasks.broker import calls, reaper, sequence
from cis_tasks.broker.attention import AFTER_COMMAND_S, AFTER_JOB_S, PAUSE_S, Attention
from cis_tasks.broker.exchanges import Fanout, Topic
from cis_tasks.broker.owned import Key, OwnedQueue, belongings
from cis_tasks.broker.owners import unique
from cis_tasks.broker.polling import LONGEST_POLL_S, Payload, is_gone, parse

logger = logging.getLogger(__name__)

MAX_NAME = 80  # SQS limit
MAILBOX = re.compile(r".+\.pidbox$")
REPLIES = re.compile(r".+\.reply\..+\.pidbox$")
REPLIES_OF_ALL = "replies"  # one queue of the process serves them all
REPLY_EXCHANGE = re.compile(r"reply\..+\.pidbox$")
REPLY_HEADER = "reply_queue"

CLIENT_CONFIG: dict[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": LONGEST_POLL_S + 10,
    "retries": {"mode": "standard", "total_max_attempts": 3},
    "max_pool_connections": 32,  # threads share the client
}
SENT_THROUGH_SNS = {"topic": Topic, "fanout": Fanout}
AGAIN_S = 1.0  # SQS may need a second until everybody sees a new queue

#: The reply queue named by the command that is being worked on.
_reply_queue: ContextVar[str | None] = ContextVar("reply_queue", default=None)


class ControlQueues(SQS.Channel):
    """Mixin of the channel for every queue that is not in ``predefined_queues``.

    A queue declared exclusive or auto-delete belongs to this process: it is made when it is
    declared, under a name that no other process has used (SQS refuses a name for a minute after
    its deletion), fed through SNS where it is bound to a fanout or topic exchange, polled by a
    thread of its own, and deleted when the process exits.

    Replies need no binding that two processes would have to share: all of a process's callers
    have one reply queue, each command names it in its header, and what arrives there goes to the
    caller whose reply it is.
    """

    supports_fanout = True
    exchange_types = virtual.Channel.exchange_types | SENT_THROUGH_SNS

    # ------------------------------------------------------------------ names and clients

    def canonical_queue_name(self, queue_name: str) -> str:
        """The name in SQS (and SNS): a job queue's own, the real one of an owned queue."""
        if queue_name in self.predefined_queues:
            return queue_name
        owned = self._owned(queue_name)
        return owned.name if owned else self._fitting(self.queue_name_prefix + queue_name)

    @property
    def installation(self) -> str:
        """What the names of its own queues and topics begin with."""
        return self._fitting(self.queue_name_prefix)

    def sqs(self, queue: str | None = None) -> Any:
        """The boto3 client for a queue; that of the whole process for all but job queues."""
        if queue is not None and queue in self.predefined_queues:
            return super().sqs(queue)
        return self._control_client("sqs")

    def asynsqs(self, queue: str | None = None) -> Any:
        """Kombu's asynchronous client for a queue."""
        return super().asynsqs(queue if queue in self.predefined_queues else None)

    @property
    def fanout(self) -> SNS:
        """Kombu's SNS helper, with the topics known to the whole process."""
        if self._fanout is None:
            self._fanout = SNS(self)
            self._fanout._client = self._control_client("sns")  # noqa: SLF001
            self._fanout._topic_arn_cache = self._topic_arns()  # noqa: SLF001
        return self._fanout

    def _topic_arns(self) -> dict[str, str]:
        """Exchange → topic, for this installation, as far as this process has asked."""
        return belongings().topic_arns(id(self._control_client("sns")), self.queue_name_prefix)

    def _control_client(self, service: Literal["sqs", "sns"]) -> Any:
        info = self.conninfo
        made_for = (
            *(service, self.region, self.endpoint_url, info.userid, info.password),
            repr(self.transport_options.get("client-config")),
            *sorted(item for item in os.environ.items() if item[0].startswith("AWS_")),
        )
        config = Config(**{**CLIENT_CONFIG, **(self.transport_options.get("client-config") or {})})
        return belongings().client(
            made_for,
            lambda: calls.watch(
                self._new_boto_client(
                    service, self.region, info.userid, info.password, config=config
                )
            ),
        )

    def _fitting(self, name: str) -> str:
        name = str(self.entity_name(name))
        if len(name) <= MAX_NAME:
            return name
        return f"{name[: MAX_NAME - 9]}-{sha256(name.encode()).hexdigest()[:8]}"

    # ------------------------------------------------------------------ declaring

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        **options: Any,
    ) -> Any:
        """Declare a queue; one that is exclusive or auto-delete becomes this process's own."""
        options.update(passive=passive, exclusive=exclusive, auto_delete=auto_delete)
        if not queue or queue in self.predefined_queues or not (exclusive or auto_delete):
            return super().queue_declare(queue, **options)
        if not passive:
            self._own(queue)
        elif self._url_if_exists(queue) is None:
            return super().queue_declare(queue, **options)  # raises as kombu does
        return queue_declare_ok_t(queue, 0, 0)

    def queue_delete(self, queue: str, *args: Any, **options: Any) -> None:
        """Delete a queue; never a job queue, which is not this process's to delete."""
        if self._owned(queue) is None:
            super().queue_delete(queue, *args, **options)
        else:
            self._disown(queue)

    def after_reply_message_received(self, queue: str) -> None:
        """Keep the reply queue: the next caller uses it."""

    def _owned_key(self, queue: str) -> Key:
        what = REPLIES_OF_ALL if REPLIES.match(queue) else queue
        return (id(self._control_client("sqs")), self.queue_name_prefix, what)

    def _owned(self, queue: str) -> OwnedQueue | None:
        if queue in self.predefined_queues:  # asked for each batch of jobs
            return None
        return belongings().find(self._owned_key(queue))

    def _own(self, queue: str) -> OwnedQueue:
        mine, key = belongings(), self._owned_key(queue)
        with mine.lock:
            owned = mine.find(key)
            if owned is not None and owned.exists():
                return owned
            owned = self._make_owned(queue)
            mine.add(key, owned)
        if MAILBOX.match(queue) and not REPLIES.match(queue):
            self._reap_in_background()
        return owned

    def _make_owned(self, queue: str) -> OwnedQueue:
        mine, replies = belongings(), REPLIES.match(queue)
        name, attention = queue, None
        if replies:
            name = f"{REPLIES_OF_ALL}-{unique()}"
        elif MAILBOX.match(queue):
            name, attention = f"{queue}-{unique()}", mine.attention
            self._configure(attention)
        owned = OwnedQueue(
            self._control_client("sqs"),
            self._fitting(self.queue_name_prefix + name),
            attention=attention,
            routes=bool(replies),
            wait_s=min(self.wait_time_seconds or LONGEST_POLL_S, LONGEST_POLL_S),
        )
        tags = {
            **(self.transport_options.get("queue_tags") or {}),
            **mine.owner.tags(self.installation),
        }
        attributes = self.transport_options.get("sqs-creation-attributes") or {}
        visibility = {"VisibilityTimeout": str(self.visibility_timeout)}
        owned.create(tags, {**visibility, **attributes})
        return owned

    def _configure(self, attention: Attention) -> None:
        options = self.transport_options
        attention.pause_s = options.get("control_pause_seconds", PAUSE_S)
        attention.after_job_s = options.get("control_after_job_seconds", AFTER_JOB_S)
        attention.after_command_s = options.get("control_after_command_seconds", AFTER_COMMAND_S)
        attention.on_job()

    def _disown(self, queue: str) -> None:
        self.connection.stop_reading(queue)
        self.state.queue_bindings_delete(queue)
        belongings().drop(self._owned_key(queue))

    def _reap_in_background(self) -> None:
        if self.installation:  # without, this would look at every queue of the account
            clients = self._control_client("sqs"), self._control_client("sns")
            arguments = (*clients, self.installation)
            threading.Thread(
                target=reaper.reap_quietly, args=arguments, name="reaper", daemon=True
            ).start()

    # ------------------------------------------------------------------ exchanges

    def has_job_queues(self, exchange: str) -> bool:
        """Whether this process has bound predefined queues to an exchange."""
        declared = self.state.exchanges.get(exchange) or {}
        return any(queue in self.predefined_queues for _, _, queue in declared.get("table", ()))

    def _exchange_is_fanout(self, exchange_name: str) -> bool:
        """Whether it has an SNS topic."""
        declared = self.state.exchanges.get(exchange_name) or {}
        return declared.get("type") in {"fanout", "topic"} and not self.has_job_queues(
            exchange_name
        )

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Nothing yet: the queue is subscribed when it is consumed."""

    def _subscribe_queue_to_fanout_exchange_if_required(self, queue_name: str) -> None:
        owned = self._owned(queue_name)
        if owned is None:
            return
        for binding in self.state.queue_bindings(queue_name):
            if self._exchange_is_fanout(binding.exchange):
                topic_arn = self.fanout._get_or_create_topic(binding.exchange)  # noqa: SLF001
                self._subscribe(owned, topic_arn)

    def _subscribe(self, owned: OwnedQueue, topic_arn: str) -> None:
        with belongings().lock:
            if owned.subscribed(topic_arn):
                return
            arn, sns = owned.arn(), self._control_client("sns")
            policy = json.dumps(_policy(arn, [*owned.topics, topic_arn]))
            owned.sqs.set_queue_attributes(QueueUrl=owned.url, Attributes={"Policy": policy})
            answer = sns.subscribe(
                TopicArn=topic_arn,
                Protocol="sqs",
                Endpoint=arn,
                Attributes={"RawMessageDelivery": "true"},
                ReturnSubscriptionArn=True,
            )
            owned.add_subscription(topic_arn, sns, answer["SubscriptionArn"])

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **options: Any) -> None:
        if MAILBOX.match(exchange):
            headers = message["headers"] = dict(message.get("headers") or {})
            sequence.sent.mark_command(headers)
            if replies := self._owned(f"any.reply.{exchange}"):
                headers[REPLY_HEADER] = replies.name
        try:
            super()._put_fanout(exchange, message, routing_key, **options)
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"NotFound", "NotFoundException"}:
                raise
            self._topic_arns().pop(exchange, None)  # deleted meanwhile
            super()._put_fanout(exchange, message, routing_key, **options)

    # ------------------------------------------------------------------ sending

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        if exchange and REPLY_EXCHANGE.match(exchange):
            return [f"{routing_key}.{exchange}"]
        return super()._lookup(exchange, routing_key, default)

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        if queue in self.predefined_queues:
            super()._put(queue, message, **options)
            return
        body = dumps(message)
        if REPLIES.match(queue) and (to := _reply_queue.get()):
            self._reply(to, body)
            return
        url = self._url_if_exists(queue)
        if url is None or not self._sent(url, body):
            self._queue_cache.pop(self.canonical_queue_name(queue), None)
            logger.info("Dropped a message for %s: nobody has such a queue", queue)

    def _reply(self, name: str, body: str, *, again: bool = True) -> None:
        """Send to another process's reply queue, if it still has one."""
        if not name.startswith(self.installation):
            logger.warning("Did not reply to %s, which is none of this installation's", name)
            return
        url = self._find(name)
        if url is not None and self._sent(url, body):
            return
        if again:
            later = threading.Timer(AGAIN_S, self._reply, (name, body), {"again": False})
            later.daemon = True
            later.start()
        else:
            logger.info("Dropped a reply: its caller's queue %s is gone", name)

    def _sent(self, url: str, body: str) -> bool:
        try:
            self._control_client("sqs").send_message(QueueUrl=url, MessageBody=body)
        except ClientError as error:
            if is_gone(error):
                return False
            raise
        return True

    def _find(self, name: str) -> str | None:
        try:
            return str(self._control_client("sqs").get_queue_url(QueueName=name)["QueueUrl"])
        except ClientError as error:
            if is_gone(error):
                return None
            raise

    def _url_if_exists(self, queue: str) -> str | None:
        """Where to send to, without creating it."""
        owned = self._owned(queue)
        if owned is not None:
            return owned.url
        name = self.canonical_queue_name(queue)
        if name not in self._queue_cache:
            url = self._find(name)
            if url is None:
                return None
            self._queue_cache[name] = url
        return str(self._queue_cache[name])

    def _new_queue(self, queue: str, **options: Any) -> Any:
        owned = self._owned(queue)
        return owned.url if owned is not None else super()._new_queue(queue, **options)

    # ------------------------------------------------------------------ receiving

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,
        callback: Any,
        consumer_tag: str,
        **options: Any,
    ) -> Any:
        """Consume from a queue; from an owned one through its thread."""
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **options)
        owned = self._owned(queue)
        if owned is not None and no_ack:
            self._active_queues.remove(queue)  # kombu must not poll it too
            self._reset_cycle()
            self.connection.read(queue, owned, self)
        return result

    def basic_cancel(self, consumer_tag: str) -> Any:
        """End a consumer; its queue goes with it, but for that of replies."""
        queue = self._tag_to_queue.get(consumer_tag)
        result = super().basic_cancel(consumer_tag)
        if queue is not None and self._owned(queue) is not None:
            self.connection.stop_reading(queue)
            if not REPLIES.match(queue):
                self._disown(queue)
        return result

    def is_for(self, queue: str, payload: Payload) -> bool:
        """Whether a message that came through SNS matches a binding of the queue."""
        info = payload["properties"]["delivery_info"]
        exchange, routing_key = info.get("exchange"), info.get("routing_key")
        declared = self.state.exchanges.get(exchange) or {}
        if declared.get("type") != "topic":
            return True
        matches = self.typeof(exchange).lookup(declared["table"], exchange, routing_key, None)
        return queue in matches

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:
        """One message of a queue, if there is one now."""
        if queue in self.predefined_queues:
            return super().basic_get(queue, no_ack=no_ack, **options)
        message = super().basic_get(queue, no_ack=False, **options)
        if message is not None and no_ack:
            message.ack()
        return message

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002  kombu's
        if queue in self.predefined_queues:
            return super()._get(queue)
        url = self._url_if_exists(queue)
        answer = (
            self._control_client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=0)
            if url
            else {}
        )
        for message in answer.get("Messages", []):
            return self._envelope_payload(parse(message["Body"]) or {}, "", message, url)
        raise Empty


@contextmanager
def handling(payload: Payload) -> Iterator[None]:
    """While a command is worked on, know where its reply goes."""
    token = _reply_queue.set((payload.get("headers") or {}).get(REPLY_HEADER))
    try:
        yield
    finally:
        _reply_queue.reset(token)


def _policy(queue_arn: str, topic_arns: list[str]) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": queue_arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": topic_arns}},
            }
        ],
    }
