"""Many messages in few calls: ten to a SendMessageBatch.

    with batched():
        group(add.s(i, i) for i in range(1000)).apply_async()

Celery publishes one message after another and promises of each that it is in the queue when the
call returns, so nothing can be batched behind its back. Within the block that promise is made
for the end of the block instead: waiting there for a result waits for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

MAX_BATCH = 10  # entries that SQS takes in one call
MAX_BYTES = 1024 * 1024  # and their size, all together
OVERHEAD_BYTES = 256  # of an entry beside its body
ATTEMPTS = 4
FIRST_PAUSE_S = 0.1

_local = threading.local()


class NotSentError(Exception):
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
    """The batch that this thread's messages belong to."""
    return getattr(_local, "batch", None)


class Batch:
    """Messages of one block that have not been sent."""

    def __init__(self) -> None:
        self._parcels: list[Parcel] = []
        self._refused: list[tuple[str, str]] = []

    def add(self, parcel: Parcel) -> None:
        """Take one message; sends those before it where they fill a call."""
        waiting = [other for other in self._parcels if other.url == parcel.url]
        if waiting and sum(other.size for other in waiting) + parcel.size > MAX_BYTES:
            self._send(waiting)
            waiting = []
        self._parcels.append(parcel)
        if len(waiting) + 1 == MAX_BATCH:
            self._send([*waiting, parcel])

    def finish(self) -> None:
        """Send the rest.

        Raises:
            NotSentError: some could not be sent.
        """
        for url in dict.fromkeys(parcel.url for parcel in self._parcels):
            self._send([parcel for parcel in self._parcels if parcel.url == url])
        if self._refused:
            raise NotSentError(self._refused)

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
