"""Jobs on their way into a queue: one SendMessage each, or ten to a call where they are many."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
from typing import Any

from kombu.asynchronous.aws.sqs.message import AsyncMessage
from kombu.utils.json import dumps

from cis_tasks.broker import bulk, fifo, sequence
from cis_tasks.broker.predefined import FIFO, Predefined

logger = logging.getLogger(__name__)


class Sending(Predefined):
    """Mixin of the channel: publishes to job queues."""

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if not self._is_job_queue(queue) or message.get("redelivered"):
            super()._put(queue, message, **kwargs)
            return
        headers = message.get("headers") or {}
        fifo.refuse_far_eta(headers)
        task_id, fields = str(headers.get("id")), self._fields(queue, message)
        sequence.sent.mark_job(task_id, fields)
        parcel = bulk.Parcel(
            client=self.sqs(queue=queue),
            url=self._new_queue(queue),
            task=task_id,
            fields=fields,
        )
        batch = bulk.batch_for(headers, self.connection.client)
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
        if self._new_queue(queue).endswith(FIFO):
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
