"""Jobs on their way out of a queue: one `Receiver` for each, whose messages come under lease."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any

from celery.platforms import EX_FAILURE
from celery.worker import state as worker_state

from cis_tasks.broker.handing_over import POLL_MARGIN_S, HandingOver, Received
from cis_tasks.broker.predefined import FIFO
from cis_tasks.broker.receiver import GIVE_UP_S, Receiver, Room, Work

logger = logging.getLogger(__name__)


class Receiving(HandingOver):
    """Mixin of the channel: receives for a worker's event loop, in threads."""

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._receivers: dict[str, Receiver] = {}
        self._attempts: dict[str, str] = {}
        super().__init__(connection, **kwargs)

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
        with self.leases.settled:
            self.leases.settled.notify_all()

    def close(self) -> None:
        """Receive no more."""
        for receiver in self._receivers.values():
            receiver.stop()
        super().close()

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
            longest_s=self.wait_time_seconds + POLL_MARGIN_S,
        )

    def _room(self, queue: str) -> Room:
        limit = self.qos.prefetch_count
        if not self._is_job_queue(queue) or not limit:
            return Room(free=0, limit=0, waiting=0)
        waiting = len(worker_state.reserved_requests) - len(worker_state.active_requests)
        return Room(free=limit - self.leases.open, limit=limit, waiting=waiting)

    def _receive(self, queue: str, url: str, count: int) -> Sequence[Received]:
        """Receive in a receiver's thread."""
        job_queue = self._job_queue(queue) if self._is_job_queue(queue) else None
        wait_s = self.wait_time_seconds
        params = self._receive_params(queue, url, count, wait_s)
        if url.endswith(FIFO):
            # After a lost answer SQS gives the same messages again to the same attempt.
            attempt = self._attempts.setdefault(queue, uuid.uuid4().hex)
            params["ReceiveRequestAttemptId"] = attempt
        answer = self._job_client(queue, wait_s + POLL_MARGIN_S).receive_message(**params)
        self._attempts.pop(queue, None)
        messages: Sequence[Received] = answer.get("Messages") or ()
        if job_queue:
            self.leases.add(job_queue, messages)
        return messages

    def _deliver(self, queue: str, messages: Sequence[Received]) -> None:
        """Hand messages from a receiver's thread to the event loop."""
        loop = self.hub
        if loop is not None and self._receivers[queue].wanted:
            self._bring(loop, queue, messages)
            return
        for message in messages:
            self.leases.release(message["ReceiptHandle"])

    def _give_up(self, reason: str) -> None:
        logger.critical("The worker ends, because it can receive no more: %s", reason)
        worker_state.should_stop = EX_FAILURE
        loop = self.hub
        if loop is not None:
            loop.call_soon(lambda: None)  # it looks when it wakes
