"""What SQS says about the delivery of the message that a task runs for."""

from __future__ import annotations

from typing import Any


def receive_count(request: Any) -> int:
    """How often the running task's message has been received, this time included.

    Args:
        request: the bound task's ``self.request``.

    Returns:
        1 where SQS does not say, as for a task called directly.

    Source: ``ApproximateReceiveCount``,
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
    """
    properties = getattr(request, "properties", None) or {}
    message = properties.get("delivery_info", {}).get("sqs_message", {})
    return int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1))
