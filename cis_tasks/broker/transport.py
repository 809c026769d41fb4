"""The transport that a Celery app names as its ``broker_transport``."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kombu.transport import SQS

from cis_tasks.broker import fifo, sequence
from cis_tasks.broker.control_queues import MAILBOX, REPLIES, ControlQueues, handling
from cis_tasks.broker.job_queues import JobQueues
from cis_tasks.broker.owned import OwnedQueue, belongings
from cis_tasks.broker.polling import Inbox, Payload

PEEK_S = 1.0  # how long one look takes where two kinds of queues are read in turn


class Channel(ControlQueues, JobQueues, SQS.Channel):
    """kombu's SQS channel with its job queues kept under lease and its control queues working."""

    @property
    def hub(self) -> Any:
        """The event loop that this channel's connection was given to; else None.

        kombu takes the process's, so that a client in a worker's process would have its messages
        taken away by the worker's loop.
        """
        return self.connection.inbox.loop if self.connection is not None else None

    @hub.setter
    def hub(self, value: Any) -> None:
        """Ignored: kombu sets it when it makes the channel."""

    def _deliver(self, queue: str, messages: Sequence[Mapping[str, Any]]) -> None:
        belongings().attention.on_job()
        if self.connection is not None and self.connection.takes_commands:
            sequence.seen.await_commands_before(messages)
        super()._deliver(queue, messages)


class Transport(SQS.Transport):
    """SQS with FIFO job queues, remote control and events.

    Transport options beyond kombu's:

    ``queue_name_prefix``
        Begins the name of every queue and topic that is not predefined; one per installation.
    ``control_pause_seconds``
        How long the mailbox of a worker that nobody needs rests between two long polls (60);
        0 listens all the time.
    ``control_after_job_seconds``, ``control_after_command_seconds``
        How long a worker listens to its mailbox all the time after its start or a job (60), and
        after a command (600).
    ``event_window_seconds``
        How long task events are collected before they are sent together (1).
    ``delete_window_seconds``
        How long the deletes of finished jobs are collected (0.05).
    """

    Channel = Channel
    implements = SQS.Transport.implements.extend(
        exchange_type=frozenset({"direct", "topic", "fanout"})
    )

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.inbox = Inbox(self._hand_over)
        self._watched: tuple[socket.socket, socket.socket] | None = None
        self.declared_queues: dict[str, Any] = {}
        self._read: dict[str, tuple[ControlQueues, OwnedQueue]] = {}

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let a worker's event loop read, instead of calls of `drain_events`."""
        super().register_with_event_loop(connection, loop)
        self.inbox.loop = loop
        self._close_watched()
        self._watched = socket.socketpair()
        self._watched_in = os.getpid()
        # A loop without a file to watch sleeps up to 100 ms instead of polling, and no thread can
        # wake it: pools of threads and solo have none, now that jobs come from a thread too.
        loop.add_reader(self._watched[0].fileno(), _nothing)

    def close_connection(self, connection: Any) -> None:
        """Close the channels, and what the event loop watched for them."""
        super().close_connection(connection)
        self._close_watched()

    def _close_watched(self) -> None:
        if self._watched is None:
            return
        if self._watched_in == os.getpid():  # a forked child shares the loop's epoll
            self.inbox.loop.remove_reader(self._watched[0].fileno())
        for end in self._watched:
            end.close()
        self._watched = None

    @property
    def takes_commands(self) -> bool:
        """Whether a worker's mailbox is read."""
        return any(map(_is_mailbox, tuple(self._read)))

    def read(self, queue: str, owned: OwnedQueue, channel: ControlQueues) -> None:
        """Take what arrives in an owned queue for the channel's consumer."""
        self._read[queue] = channel, owned
        owned.poller.attach(queue, self.inbox)

    def stop_reading(self, queue: str) -> None:
        """Take no more of it."""
        if queue in self._read:
            _, owned = self._read.pop(queue)
            owned.poller.detach(queue, self.inbox)

    def drain_events(self, connection: Any, timeout: float | None = None, **_: object) -> None:
        """Hand over the next message.

        Raises:
            TimeoutError: none has arrived within ``timeout`` seconds.
        """
        if not self._read:
            super().drain_events(connection, timeout)
        elif not any(channel._active_queues for channel in self.channels):  # noqa: SLF001
            if not self.inbox.deliver(timeout):
                raise TimeoutError
        else:
            self._drain_both(connection, timeout)

    def _drain_both(self, connection: Any, timeout: float | None) -> None:
        end_s = None if timeout is None else time.monotonic() + timeout
        while not self.inbox.deliver(0):
            left_s = PEEK_S if end_s is None else min(PEEK_S, end_s - time.monotonic())
            if left_s <= 0:
                raise TimeoutError
            with contextlib.suppress(TimeoutError):
                super().drain_events(connection, left_s)
                return

    def _hand_over(self, queue: str, payload: Payload) -> None:
        if queue not in self._read or queue not in self._callbacks:
            return  # its consumer has just been cancelled
        channel, _ = self._read[queue]
        if not channel.is_for(queue, payload):
            return
        if not _is_mailbox(queue):
            self._deliver(payload, queue)
            return
        belongings().attention.on_command()
        try:
            with handling(payload):
                self._deliver(payload, queue)
        finally:
            sequence.seen.add((payload.get("headers") or {}).get(sequence.COMMAND, ""))


def _is_mailbox(queue: str) -> bool:
    return bool(MAILBOX.match(queue)) and not REPLIES.match(queue)


def _nothing(*_: object) -> None:
    """Handle a file that never has anything to read."""


fifo.install()
