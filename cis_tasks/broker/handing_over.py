"""Received messages on their way to the consumer: leased, looked at, one of a group at a time."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from queue import Empty
from typing import Any

from cis_tasks.broker import poison
from cis_tasks.broker.flush import WINDOW_S
from cis_tasks.broker.groups import Groups
from cis_tasks.broker.leases import Leases
from cis_tasks.broker.predefined import Predefined

logger = logging.getLogger(__name__)

POLL_MARGIN_S = 5  # after which a long poll without an answer is dead

Received = Mapping[str, Any]


class HandingOver(Predefined):
    """Mixin of the channel: makes deliveries of SQS messages.

    Attributes:
        leases: on the messages that this channel received.
    """

    do_restore = False  # leases give messages back; kombu would hide them for a while first

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        options = connection.client.transport_options
        self.leases = Leases(float(options.get("delete_window_seconds", WINDOW_S)))
        self._groups = Groups()
        self._arrived: deque[tuple[str, Sequence[Received]]] = deque()
        super().__init__(connection, **kwargs)

    # ------------------------------------------------------------------ with an event loop

    def _bring(self, loop: Any, queue: str, messages: Sequence[Received]) -> None:
        """Have the event loop hand messages over; from any thread."""
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

    def _on_messages_ready(self, queue: str, qname: str, messages: Received) -> Any:
        if not self._is_job_queue(qname):
            return super()._on_messages_ready(queue, qname, messages)
        received = messages.get("Messages") or ()
        for message in received:
            self._hand_over(queue, qname, message)
        return len(received)

    def _hand_over(self, url: str, queue: str, message: Received) -> None:
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
            self._go_on(queue, handle, done=False)

    def _may_go(self, queue: str, message: Received) -> bool:
        group = message.get("Attributes", {}).get("MessageGroupId")
        return group is None or self._groups.enter((queue, group), message)

    def _go_on(self, queue: str, handle: str, *, done: bool) -> None:
        """Let what waits behind a settled message go; after a failure it goes back with it."""
        behind, loop = self._groups.leave(handle), self.hub
        if not behind:
            return
        if done and loop is not None:
            self._bring(loop, queue, behind)
        else:
            for message in behind:
                self.leases.release(message["ReceiptHandle"])

    # ------------------------------------------------------------------ without one

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
        payloads = [self._parse(message, queue, url, whole=True) for message in messages]
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

    def _parse(
        self, message: Received, queue: str, url: str, *, whole: bool = False
    ) -> dict[str, Any] | None:
        """The payload of a message; None where it has none, and then it is settled.

        ``whole`` decodes its body too, which the event loop's callbacks do by themselves.
        """
        try:
            payload: dict[str, Any] = poison.envelope(message["Body"])
            payload = self._envelope_payload(payload, message["Body"], message, url)
            if int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)) > 1:
                payload["properties"]["delivery_info"]["redelivered"] = True
            if whole:
                self.Message(payload, channel=self)
        except MemoryError:
            raise
        except Exception as error:
            self._refuse(queue, message, error)
            return None
        return payload

    def _refuse(self, queue: str, message: Received, reason: object) -> None:
        poison.report(queue, f"message {message.get('MessageId')}", reason, message["Body"])
        self._reject(queue, message["ReceiptHandle"])

    def _reject(self, queue: str, handle: str) -> None:
        """Leave a message to the queue's redrive policy; delete it where there is none."""
        if self.connection is None or self._has_redrive_policy(queue, self._job_queues[queue].url):
            self.leases.release(handle)
        else:
            logger.error("%s has no dead-letter queue: the message is deleted", queue)
            self.leases.delete(handle)


def _label(payload: Mapping[str, Any]) -> str:
    headers = payload.get("headers") or {}
    return f"{headers.get('task')}[{headers.get('id')}]"
