"""Many messages in few calls: ten to a SendMessageBatch.

Celery publishes one message after another and promises of each that it is in the queue when the
call returns. A group's messages are promised together, so they are batched by themselves: all go
through one producer, and what is left is sent when that is given back to its pool, or when no other
has come for a moment: members may come from a generator that takes its time. For messages of
several calls the promise can be made for the end of a block:

    with batched():
        for i in range(1000):
            add.delay(i, i)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from kombu import pools
from kombu.connection import Connection
from kombu.exceptions import OperationalError

MAX_BATCH = 10  # entries that SQS takes in one call
MAX_BYTES = 1024 * 1024  # and their size, all together
OVERHEAD_BYTES = 256  # of an entry beside its body
ATTEMPTS = 4
FIRST_PAUSE_S = 0.1
LINGER_S = 0.2  # for which a group's messages wait for the next

_local = threading.local()


class NotSentError(OperationalError):
    """Some messages of a block are not in their queue.

    Attributes:
        refused: (task id, reason) of each.
    """

    def __init__(self, refused: Sequence[tuple[str, str]]) -> None:
        self.refused = list(refused)
        shown = "; ".join(f"{task}: {reason}" for task, reason in self.refused[:3])
        super().__init__(f"SQS refused {len(self.refused)} message(s), send them again: {shown}")


@dataclass(frozen=True)
class Parcel:
    """One message on its way.

    Attributes:
        client: boto3 client of its queue.
        url: its queue.
        task: its task's id, for people.
        fields: arguments of SendMessage but the queue.
    """

    client: Any
    url: str
    task: str
    fields: Mapping[str, Any]

    @property
    def size(self) -> int:
        """About what SQS counts."""
        return len(self.fields["MessageBody"]) + OVERHEAD_BYTES


@contextmanager
def batched() -> Iterator[None]:
    """Within the block, this thread's tasks are published ten to a call, the last at its end.

    A block within a block belongs to the outer one. What was published before an error in the
    block is sent nonetheless, as it would have been without the block.

    Raises:
        NotSentError: at the end of the block, where SQS refused some messages for good.
    """
    if current() is not None:
        yield
        return
    batch = _local.batch = Batch()
    try:
        yield
    finally:
        _local.batch = None
        batch.finish()


def current() -> Batch | None:
    """The batch of the block that this thread is in."""
    return getattr(_local, "batch", None)


def batch_for(headers: Mapping[str, Any], connection: Connection) -> Batch | None:
    """The batch that a message belongs to; None where it is to be sent at once.

    Args:
        headers: of its task.
        connection: that it is sent through. The members of a group go through one, lent to their
            producer, so that they end with its loan.
    """
    if (block := current()) is not None:
        return block
    for loan in _loans():
        if loan.connection is connection:
            return loan.batch
    if headers.get("group") and (producer := _borrower(connection)):
        return _hold(connection, producer)
    return None


def flush() -> None:
    """Send what this thread's groups have left.

    Raises:
        NotSentError: some could not be sent.
    """
    for loan in tuple(_loans()):
        loan.batch.finish()


@dataclass(frozen=True, eq=False)
class _Loan:
    """A connection that a producer has borrowed from its pool, and what goes through it."""

    connection: Connection
    batch: Batch


def _loans() -> list[_Loan]:
    """Those of this thread, where something is or was batched."""
    if not hasattr(_local, "loans"):
        _local.loans = []
    loans: list[_Loan] = _local.loans
    return loans


def _borrower(connection: Connection) -> Any:
    """The producer from one of kombu's pools that has this connection; None where none has."""
    for pool in tuple(pools.producers.values()):
        for producer in tuple(pool._dirty):  # noqa: SLF001  those lent; nothing else knows them
            if producer.__connection__ is connection:
                return producer
    return None


def _hold(connection: Connection, producer: Any) -> Batch:
    """Batch what goes through a connection until its producer is given back."""
    give_back = producer.release  # the pool sets it for each loan
    loan = _Loan(connection, Batch(LINGER_S))
    _loans().append(loan)

    def release() -> None:
        _loans().remove(loan)
        try:
            loan.batch.finish()
        finally:
            give_back()

    producer.release = release
    return loan.batch


class Batch:
    """Messages of one block that have not been sent.

    Args:
        linger_s: after so long without another message, those that wait are sent; None: at the end.
    """

    def __init__(self, linger_s: float | None = None) -> None:
        self._linger_s = linger_s
        self._lock = threading.RLock()  # held while sending, so that the order is kept
        self._timer: threading.Timer | None = None
        self._added_s = 0.0
        self._parcels: list[Parcel] = []
        self._refused: list[tuple[str, str]] = []

    def add(self, parcel: Parcel) -> None:
        """Take one message; sends those before it where they fill a call."""
        with self._lock:
            self._take(parcel)
            self._added_s = time.monotonic()
            if self._linger_s is not None and self._parcels and self._timer is None:
                self._linger(self._linger_s)

    def finish(self) -> None:
        """Send the rest.

        Raises:
            NotSentError: some could not be sent.
        """
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._send_all()
            refused, self._refused = self._refused, []
        if refused:
            raise NotSentError(refused)

    def _linger(self, for_s: float) -> None:
        self._timer = threading.Timer(for_s, self._send_if_still)
        self._timer.daemon = True
        self._timer.start()

    def _send_if_still(self) -> None:
        """Send what waits for others that do not come; who finishes the batch hears of errors."""
        with self._lock:
            if self._timer is not threading.current_thread() or self._linger_s is None:
                return  # finished meanwhile
            self._timer = None
            left_s = self._added_s + self._linger_s - time.monotonic()
            if left_s <= 0:
                self._send_all()
            elif self._parcels:
                self._linger(left_s)

    def _take(self, parcel: Parcel) -> None:
        waiting = [other for other in self._parcels if other.url == parcel.url]
        if waiting and sum(other.size for other in waiting) + parcel.size > MAX_BYTES:
            self._send(waiting)
            waiting = []
        self._parcels.append(parcel)
        if len(waiting) + 1 == MAX_BATCH:
            self._send([*waiting, parcel])

    def _send_all(self) -> None:
        for url in dict.fromkeys(parcel.url for parcel in self._parcels):
            self._send([parcel for parcel in self._parcels if parcel.url == url])

    def _send(self, parcels: Sequence[Parcel]) -> None:
        taken = set(map(id, parcels))
        self._parcels = [parcel for parcel in self._parcels if id(parcel) not in taken]
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_PAUSE_S * 2**attempt)
            failures = send(parcels)
            last = attempt + 1 == ATTEMPTS
            self._refused += [(f.parcel.task, f.reason) for f in failures if f.final or last]
            parcels = [f.parcel for f in failures if not f.final]
            if not parcels:
                return


@dataclass(frozen=True)
class Failure:
    """Why one message was not taken."""

    parcel: Parcel
    reason: str
    final: bool


def send(parcels: Sequence[Parcel]) -> list[Failure]:
    """Send up to ten messages to one queue in one call.

    Returns:
        Those that SQS did not take. Sending them again is safe: their deduplication ids are kept.

    Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
    """
    entries = [{"Id": str(index), **parcel.fields} for index, parcel in enumerate(parcels)]
    try:
        answer = parcels[0].client.send_message_batch(QueueUrl=parcels[0].url, Entries=entries)
    except ClientError as error:
        final = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) < 500
        return [Failure(parcel, str(error), final) for parcel in parcels]
    except (BotoCoreError, OSError) as error:
        return [Failure(parcel, repr(error), final=False) for parcel in parcels]
    return [
        Failure(
            parcels[int(failed["Id"])],
            f"{failed.get('Code')}: {failed.get('Message', '')}",
            final=bool(failed.get("SenderFault")),
        )
        for failed in answer.get("Failed", ())
    ]
