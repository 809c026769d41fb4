"""The end of a delivery: deleted once its effect is done, or given back."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging

from cis_tasks.broker.handing_over import HandingOver

logger = logging.getLogger(__name__)


class Settling(HandingOver):
    """Mixin of the channel: acknowledges and rejects jobs."""

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
