"""What SQS says about the delivery of the message that a task runs for.

Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def receive_count(request: Any) -> int:
    """How often the running task's message has been received, this time included.

    Args:
        request: the bound task's ``self.request``.

    Returns:
        1 where SQS does not say, as for a task called directly.
    """
    return int(_attributes(request).get("ApproximateReceiveCount", 1))


def waited_s(request: Any) -> float | None:
    """How long ago the running task's message was sent, by this machine's clock.

    Args:
        request: the bound task's ``self.request``.

    Returns:
        None where SQS does not say, as for a task called directly.
    """
    sent_ms = _attributes(request).get("SentTimestamp")
    return None if sent_ms is None else time.time() - int(sent_ms) / 1000


def _attributes(request: Any) -> Mapping[str, Any]:
    properties = getattr(request, "properties", None) or {}
    message = properties.get("delivery_info", {}).get("sqs_message", {})
    found: Mapping[str, Any] = message.get("Attributes", {})
    return found
