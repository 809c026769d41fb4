"""Predefined FIFO job queues: every message under lease from receipt until it is settled."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from cis_tasks.broker.leases import EXIT_TIMEOUT_S
from cis_tasks.broker.receiving import Receiving
from cis_tasks.broker.sending import Sending
from cis_tasks.broker.settling import Settling


class JobQueues(Receiving, Settling, Sending):
    """Mixin of the channel for the queues in ``predefined_queues``.

    Transport options beside kombu's own: ``poll_give_up_s``, how long receives may fail before
    the worker ends with a failure.
    """

    def close(self) -> None:
        """Stop receiving and give back what nobody works on."""
        super().close()
        if self.leases.outlive_channel:
            self.leases.release_others((), held_only=True)
        else:
            self.leases.close(EXIT_TIMEOUT_S)
