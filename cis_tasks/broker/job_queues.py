"""Predefined FIFO job queues: every message under lease from receipt until it is settled."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from queue import Empty
from typing import Any

from botocore.client import Config
from botocore.exceptions import ClientError
from celery.platforms import EX_FAILURE
from celery.worker import state as worker_state
from kombu.asynchronous.aws.sqs.message import AsyncMessage
from kombu.transport import SQS
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps

from cis_tasks.broker import bulk, calls, fifo, poison
from cis_tasks.broker.flush import JobQueue
from cis_tasks.broker.groups import Groups
from cis_tasks.broker.leases import EXIT_TIMEOUT_S, Leases
from cis_tasks.broker.receiver import GIVE_UP_S, Receiver, Room, Work

logger = logging.getLogger(__name__)

DEFAULT_VISIBILITY_S = 30  # SQS's own, where a queue does not say
CONNECT_TIMEOUT_S = 5
QUICK_TIMEOUT_S = 5  # of calls that must not outlast a lease
POLL_MARGIN_S = 10  # after which a long poll without an answer is dead


class JobQueues(SQS.Channel):
    """Mixin of the channel for the queues in ``predefined_queues``.

    Transport options beside kombu's own: ``poll_give_up_s``, how long receives may fail before
    the worker ends with a failure.

    Attributes:
        leases: on the messages that this channel received.
    """

    do_restore = False  # leases give messages back; kombu would hide them for a while first

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.leases = Leases()
        self._receivers: dict[str, Receiver] = {}
        self._arrived: deque[tuple[str, Sequence[Mapping[str, Any]]]] = deque()
        self._job_queues: dict[str, JobQueue] = {}
        self._visibility_asked: set[str] = set()
        self._attempts: dict[str, str] = {}
        self._groups = Groups()
        self._job_clients: dict[tuple[str, int], Any] = {}
        super().__init__(connection, **kwargs)

    # ------------------------------------------------------------------ receiving

    def stop_receiving(self) -> None:
        """Receive no more jobs; those under way are given back when they come."""
        for queue, receiver in list(self._receivers.items()):
            if self._is_job_queue(queue):
                receiver.stop()

    @property
    def deaf_s(self) -> float:
        """For how long no job queue could be heard of, the longest of them."""
        receivers = [r for queue, r in list(self._receivers.items()) if self._is_job_queue(queue)]
        return max((receiver.deaf_s for receiver in receivers), default=0.0)

    def basic_cancel(self, consumer_tag: str) -> Any:
        """Stop consuming."""
        queue = self._tag_to_queue.get(consumer_tag)
        answer = super().basic_cancel(consumer_tag)
        if queue in self._receivers and queue not in self._active_queues:
            self._receivers[queue].stop()
        return answer

    def basic_qos(self, *args: Any, **kwargs: Any) -> None:
        """Change how many messages may be held."""
        super().basic_qos(*args, **kwargs)
        self._room_changed()

    def close(self) -> None:
        """Stop receiving and give back what nobody works on."""
        for receiver in self._receivers.values():
            receiver.stop()
        super().close()
        if self.leases.outlive_channel:
            self.leases.release_others((), held_only=True)
        else:
            self.leases.close(EXIT_TIMEOUT_S)

    def _schedule_queue(self, queue: str) -> None:
        if queue not in self._active_queues:
            return
        receiver = self._receivers.get(queue)
        if receiver is None or not receiver.resume():
            self._receivers[queue] = Receiver(self._work(queue))

    def _work(self, queue: str) -> Work:
        url, options = self._new_queue(queue), self.transport_options
        give_up_s = options.get("poll_give_up_s", GIVE_UP_S)
        return Work(
            queue=queue,
            room=lambda: self._room(queue),
            changed=self.leases.settled,
            receive=lambda count: self._receive(queue, url, count),
            deliver=lambda messages: self._deliver(queue, messages),
            give_up=self._give_up,
            pause_s=self.connection.polling_interval or 0.0,
            give_up_s=give_up_s if self._is_job_queue(queue) else float("inf"),
        )

    def _room(self, queue: str) -> Room:
        limit = self.qos.prefetch_count
        if not self._is_job_queue(queue) or not limit:
            return Room(free=0, limit=0, waiting=0)
        waiting = len(worker_state.reserved_requests) - len(worker_state.active_requests)
        return Room(free=limit - self.leases.open, limit=limit, waiting=waiting)

    def _room_changed(self) -> None:
        with self.leases.settled:
            self.leases.settled.notify_all()

    def _receive(self, queue: str, url: str, count: int) -> Sequence[Mapping[str, Any]]:
        """Receive in a receiver's thread."""
        job_queue = self._job_queue(queue) if self._is_job_queue(queue) else None
        wait_s = self.wait_time_seconds
        params = self._receive_params(queue, url, count, wait_s)
        if queue.endswith(".fifo"):
            # After a lost answer SQS gives the same messages again to the same attempt.
            attempt = self._attempts.setdefault(queue, uuid.uuid4().hex)
            params["ReceiveRequestAttemptId"] = attempt
        answer = self._job_client(queue, wait_s + POLL_MARGIN_S).receive_message(**params)
        self._attempts.pop(queue, None)
        messages: Sequence[Mapping[str, Any]] = answer.get("Messages") or ()
        if job_queue:
            self.leases.add(job_queue, messages)
        return messages

    def _receive_params(self, queue: str, url: str, count: int, wait_s: int) -> dict[str, Any]:
        names = {name: value for name, value in self.get_message_attributes.items() if value}
        system = set(names.get("MessageSystemAttributeNames", ()))
        if not system & {"All", "ALL"}:
            names["MessageSystemAttributeNames"] = sorted(system | {"MessageGroupId"})
        if queue in self._visibility_asked:
            names["VisibilityTimeout"] = self._job_queues[queue].visibility_s
        return {
            "QueueUrl": url,
            "MaxNumberOfMessages": count,
            "WaitTimeSeconds": wait_s,
            **names,
        }

    def _deliver(self, queue: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Hand messages from a receiver's thread to the event loop."""
        loop = self.hub
        if loop is None or not self._receivers[queue].wanted:
            for message in messages:
                self.leases.release(message["ReceiptHandle"])
            return
        self._arrived.append((queue, messages))
        loop.call_soon(self._hand_over_all)

    def _hand_over_all(self) -> None:
        while self._arrived:
            queue, messages = self._arrived.popleft()
            try:
                self._on_messages_ready(self._new_queue(queue), queue, {"Messages": messages})
            except MemoryError:
                raise
            except Exception:  # one message must not keep a worker from all others
                logger.exception("Messages of %s could not be handled", queue)

    def _on_messages_ready(self, queue: str, qname: str, messages: Mapping[str, Any]) -> Any:
        if not self._is_job_queue(qname):
            return super()._on_messages_ready(queue, qname, messages)
        received = messages.get("Messages") or ()
        for message in received:
            self._hand_over(queue, qname, message)
        return len(received)

    def _hand_over(self, url: str, queue: str, message: Mapping[str, Any]) -> None:
        handle = message["ReceiptHandle"]
        callback = self.connection and self.connection._callbacks.get(queue)  # noqa: SLF001
        if callback is None:
            self.leases.release(handle)
            return
        payload = self._parse(message, queue, url)
        if payload is None or not self._may_go(queue, message):
            return
        if not self.leases.give(handle, _label(payload)):
            self._groups.leave(handle)
            return
        try:
            callback(payload)
        except MemoryError:
            raise
        except Exception as error:
            logger.exception("%s could not be taken and is given back", _label(payload))
            self._refuse(queue, message, error)

    def _may_go(self, queue: str, message: Mapping[str, Any]) -> bool:
        group = message.get("Attributes", {}).get("MessageGroupId")
        return group is None or self._groups.enter((queue, group), message)

    def _go_on(self, queue: str, handle: str, *, done: bool) -> None:
        """Let what waits behind a settled message go; after a failure it goes back with it."""
        behind, loop = self._groups.leave(handle), self.hub
        if not behind:
            return
        if done and loop is not None:
            self._arrived.append((queue, behind))
            loop.call_soon(self._hand_over_all)
        else:
            for message in behind:
                self.leases.release(message["ReceiptHandle"])

    def _give_up(self, reason: str) -> None:
        logger.critical("The worker ends, because it can receive no more: %s", reason)
        worker_state.should_stop = EX_FAILURE
        loop = self.hub
        if loop is not None:
            loop.call_soon(lambda: None)  # it looks when it wakes

    # ------------------------------------------------------------------ without an event loop

    def _receive_message(
        self, queue: str, max_number_of_messages: int = 1, wait_time_seconds: int | None = None
    ) -> Any:
        if not self._is_job_queue(queue):
            return super()._receive_message(queue, max_number_of_messages, wait_time_seconds)
        job_queue = self._job_queue(queue)
        wait_s = self.wait_time_seconds if wait_time_seconds is None else wait_time_seconds
        params = self._receive_params(queue, job_queue.url, max_number_of_messages, wait_s)
        answer = self._job_client(queue, wait_s + POLL_MARGIN_S).receive_message(**params)
        self.leases.add(job_queue, answer.get("Messages") or ())
        return answer

    def _messages_to_python(self, messages: Sequence[Any], queue: str) -> list[dict[str, Any]]:
        if not self._is_job_queue(queue):
            return list(super()._messages_to_python(messages, queue))
        url = self._new_queue(queue)
        payloads = [self._parse(message, queue, url) for message in messages]
        return [
            payload
            for payload in payloads
            if payload and self.leases.give(payload["properties"]["delivery_tag"], _label(payload))
        ]

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002  kombu's
        if not self._is_job_queue(queue):
            return super()._get(queue)
        messages = self._receive_message(queue).get("Messages") or ()
        payloads = self._messages_to_python(messages, queue)
        if not payloads:
            raise Empty
        return payloads[0]

    # ------------------------------------------------------------------ what is no task

    def _parse(self, message: Mapping[str, Any], queue: str, url: str) -> dict[str, Any] | None:
        """The payload of a message; None where it has none, and then it is settled."""
        try:
            text = bytes_to_str(self._decode_python_message_body(message["Body"]))
            payload: dict[str, Any] = poison.envelope(text)
            payload = self._envelope_payload(payload, text, message, url)
            self.Message(payload, channel=self)  # decodes the body
        except MemoryError:
            raise
        except Exception as error:
            self._refuse(queue, message, error)
            return None
        return payload

    def _refuse(self, queue: str, message: Mapping[str, Any], reason: object) -> None:
        poison.report(queue, f"message {message.get('MessageId')}", reason, message["Body"])
        self._reject(queue, message["ReceiptHandle"])

    def _reject(self, queue: str, handle: str, after_s: int = 0) -> None:
        """Leave a message to the queue's redrive policy; delete it where there is none."""
        if self.connection is None or self._has_redrive_policy(queue, self._job_queues[queue].url):
            self.leases.release(handle, after_s)
        else:
            logger.error("%s has no dead-letter queue: the message is deleted", queue)
            self.leases.delete(handle)

    # ------------------------------------------------------------------ settling

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Delete a message whose effect is done, together with others."""
        queue = self._job_queue_of(delivery_tag)
        if queue is None:
            super().basic_ack(delivery_tag, multiple)
            return
        if not self.leases.delete(delivery_tag):
            logger.info("A message that was given back or lost is not deleted: %s", delivery_tag)
        self.qos.ack(delivery_tag)
        self._go_on(queue, delivery_tag, done=True)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give a message back; without ``requeue``, for the redrive policy to count."""
        queue = self._job_queue_of(delivery_tag)
        if queue is None:
            super().basic_reject(delivery_tag, requeue=requeue)
            return
        if self.qos.is_backoff_task(delivery_tag):
            self.leases.release(delivery_tag, self._backoff_s(delivery_tag, queue))
        elif requeue:
            self.leases.release(delivery_tag)
        else:
            self._reject(queue, delivery_tag)
        self.qos.ack(delivery_tag)
        self._go_on(queue, delivery_tag, done=False)

    def _backoff_s(self, delivery_tag: str, queue: str) -> int:
        policy = self.predefined_queues[queue].get("backoff_policy") or {}
        _, receives = self.qos.extract_task_name_and_number_of_retries(delivery_tag)
        return int(policy.get(receives, self._job_queues[queue].visibility_s))

    def _job_queue_of(self, delivery_tag: str) -> str | None:
        """Name of the job queue that a delivery came from; None where it came from no such."""
        try:
            url = self.qos.get(delivery_tag).delivery_info.get("sqs_queue")
        except KeyError:
            return None
        return next((queue.name for queue in self._job_queues.values() if queue.url == url), None)

    # ------------------------------------------------------------------ sending

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if not self._is_job_queue(queue) or message.get("redelivered"):
            super()._put(queue, message, **kwargs)
            return
        headers = message.get("headers") or {}
        fifo.refuse_far_eta(headers)
        parcel = bulk.Parcel(
            client=self.sqs(queue=queue),
            url=self._new_queue(queue),
            task=str(headers.get("id")),
            fields=self._fields(queue, message),
        )
        batch = bulk.current()
        if batch is None:
            parcel.client.send_message(QueueUrl=parcel.url, **parcel.fields)
        else:
            batch.add(parcel)

    def _fields(self, queue: str, message: dict[str, Any]) -> dict[str, Any]:
        """Arguments of SendMessage but the queue."""
        properties = message["properties"]
        fields: dict[str, Any] = {}
        attributes = properties.pop("message_attributes", None)
        if attributes:
            fields["MessageAttributes"] = attributes
        delay_s = self._resolve_delay_seconds(properties)
        if queue.endswith(".fifo"):
            fifo.complete(properties)
            fields["MessageDeduplicationId"] = properties["MessageDeduplicationId"]
            if delay_s:
                logger.warning("SQS FIFO has no delay per message: %d s are ignored", delay_s)
        elif delay_s is not None:
            fields["DelaySeconds"] = delay_s
        if properties.get("MessageGroupId"):
            fields["MessageGroupId"] = properties["MessageGroupId"]
        text = dumps(message)
        fields["MessageBody"] = AsyncMessage().encode(text) if self.sqs_base64_encoding else text
        return fields

    # ------------------------------------------------------------------ queues and clients

    def _is_job_queue(self, name: str) -> bool:
        return name in self.predefined_queues

    def _job_queue(self, name: str) -> JobQueue:
        """A job queue with its visibility timeout, as given or as SQS says."""
        queue = self._job_queues.get(name)
        if queue is None:
            url, client = self._new_queue(name), self._job_client(name, QUICK_TIMEOUT_S)
            given = self.predefined_queues[name].get("visibility_timeout")
            given = given or self.transport_options.get("visibility_timeout")
            visibility_s = int(given) if given else _visibility_s(client, url)
            if given or not visibility_s:
                self._visibility_asked.add(name)  # so that it holds from receipt on
            queue = JobQueue(name, url, client, visibility_s or DEFAULT_VISIBILITY_S)
            self._job_queues[name] = queue
        return queue

    def _job_client(self, queue: str, timeout_s: int) -> Any:
        """A client whose calls fail soon and are repeated by whoever makes them."""
        if not self._is_job_queue(queue) or self.transport_options.get("sts_role_arn"):
            return self.sqs(queue=queue)
        client = self._job_clients.get((queue, timeout_s))
        if client is None:
            given = self.predefined_queues[queue]
            client = self._new_boto_client(
                service="sqs",
                region=given.get("region", self.region),
                access_key_id=given.get("access_key_id", self.conninfo.userid),
                secret_access_key=given.get("secret_access_key", self.conninfo.password),
                config=Config(
                    connect_timeout=CONNECT_TIMEOUT_S,
                    read_timeout=timeout_s,
                    retries={"total_max_attempts": 1},
                ),
            )
            self._job_clients[queue, timeout_s] = client
        return client

    def _new_boto_client(self, *args: Any, **kwargs: Any) -> Any:
        return calls.watch(super()._new_boto_client(*args, **kwargs))


def _visibility_s(client: Any, url: str) -> int:
    """A queue's visibility timeout; 0 where we may not ask."""
    try:
        answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in {"AccessDenied", "403"}:
            raise
        logger.warning("May not read the visibility timeout of %s: %s", url, error)
        return 0
    return int(answer.get("Attributes", {}).get("VisibilityTimeout", 0))


def _label(payload: Mapping[str, Any]) -> str:
    headers = payload.get("headers") or {}
    return f"{headers.get('task')}[{headers.get('id')}]"
