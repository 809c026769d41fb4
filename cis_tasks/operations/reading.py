"""Looking through a queue: messages are held for a while, and what is left is given back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from cis_tasks.operations.letters import ATTRIBUTES, Letter, read

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

MAX_BATCH = 10  # SQS limit
WAIT_S = 1  # a long poll asks all of SQS's servers; a short one, some
HOLD_S = 300  # after which SQS shows them to others again, should we be killed


class Reading:
    """One look through a queue, as a context manager.

    SQS has no way of looking without taking. So each message is received and hidden from others
    until it is deleted or the look is over; if the process is killed, until `HOLD_S` later. Of a
    message group, only the first ten are seen as long as they are held: SQS shows those behind
    them when these are deleted.

    Args:
        sqs: client.
        url: of the queue; a dead-letter queue, or one that nobody works through just now.
    """

    def __init__(self, sqs: SQSClient, url: str) -> None:
        self._sqs, self._url = sqs, url
        self._held: dict[str, Letter] = {}
        self._until_s: dict[str, float] = {}
        self._seen: set[str] = set()

    def __enter__(self) -> Reading:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_back()

    def letters(self) -> Iterator[Letter]:
        """Every message that SQS gives out, each once."""
        while True:
            asked_s = time.monotonic()
            messages = self._sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=MAX_BATCH,
                VisibilityTimeout=HOLD_S,
                WaitTimeSeconds=WAIT_S,
                MessageSystemAttributeNames=ATTRIBUTES,
                MessageAttributeNames=["All"],
            ).get("Messages", [])
            fresh = [
                letter for letter in map(read, messages) if letter.message_id not in self._seen
            ]
            for letter in fresh:
                self._seen.add(letter.message_id)
                self._held[letter.message_id] = letter
                self._until_s[letter.message_id] = asked_s + HOLD_S
            if not fresh:  # the end, or those of before, whose time is over
                return
            yield from fresh

    def keep(self, letter: Letter) -> None:
        """Hold a message for `HOLD_S` from now, where half of its time is over."""
        now_s = time.monotonic()
        if self._until_s[letter.message_id] - now_s < HOLD_S / 2:
            self._sqs.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle=letter.handle, VisibilityTimeout=HOLD_S
            )
            self._until_s[letter.message_id] = now_s + HOLD_S

    def delete(self, letter: Letter) -> None:
        """Delete a message that was read."""
        self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=letter.handle)
        self._held.pop(letter.message_id, None)

    def give_back(self) -> None:
        """Show what was read and not deleted to others again."""
        held = list(self._held.values())
        self._held.clear()
        for start in range(0, len(held), MAX_BATCH):
            self._sqs.change_message_visibility_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(index), "ReceiptHandle": letter.handle, "VisibilityTimeout": 0}
                    for index, letter in enumerate(held[start : start + MAX_BATCH])
                ],
            )
