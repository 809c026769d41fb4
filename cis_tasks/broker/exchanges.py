"""Exchanges that reach other processes.

kombu keeps bindings in each process's memory: enough for job queues, which every process
declares, and not for the queues that each process makes for itself. Those get everything that is
published to their exchange through an SNS topic, and pick what they are bound to.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

from kombu.transport.virtual import exchange as virtual


class Topic(virtual.TopicExchange):
    """Routes by pattern."""

    def deliver(self, message: Any, exchange: str, routing_key: str, **options: Any) -> None:
        """Send a message to the job queues bound to the exchange, or to its SNS topic."""
        if self.channel.has_job_queues(exchange):
            super().deliver(message, exchange, routing_key, **options)
        else:
            self.channel._put_fanout(exchange, message, routing_key, **options)  # noqa: SLF001


class Fanout(virtual.FanoutExchange):
    """Routes to all."""

    def deliver(self, message: Any, exchange: str, routing_key: str, **options: Any) -> None:
        """Send a message to the job queues bound to the exchange, or to its SNS topic."""
        if not self.channel.has_job_queues(exchange):
            super().deliver(message, exchange, routing_key, **options)
            return
        for queue in self.channel._lookup(exchange, routing_key):  # noqa: SLF001
            self.channel._put(queue, message, **options)  # noqa: SLF001
