"""Dead letters back into their job queue: filtered, slowly, one first to see whether it helps.

SQS has a task of its own for this (StartMessageMoveTask), which moves all or nothing and whose
messages an open deduplication window swallows. Here each message is sent first and deleted then.
Killed in between, it is in both queues: the next run sends it under the same deduplication id,
which SQS swallows, and beyond five minutes the job is answered from its manifest.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cis_tasks import aws, storage
from cis_tasks.errors import PermanentError
from cis_tasks.operations.asking import asking
from cis_tasks.operations.dead_letters import (
    Cause,
    Dead,
    Filter,
    browse,
    cause_of,
    dead_letter_url,
    explained,
)
from cis_tasks.operations.letters import Letter
from cis_tasks.operations.pace import Pace
from cis_tasks.operations.reading import Reading
from cis_tasks.pipelines import Pipeline
from cis_tasks.settings import settings

LOOK_EVERY_S = 1.0
BACK_EVERY_S = 30.0
LONGEST_ID = 128  # SQS limit of a deduplication id
AGAIN = re.compile(r":again-[0-9a-f-]+$")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Moved:
    """What a redrive came to.

    Attributes:
        moved: labels of the letters that are in the job queue now.
        canary: label of the one that went first; empty where none did.
    """

    moved: tuple[str, ...]
    canary: str = ""


def redrive(
    pipeline: Pipeline,
    wanted: Filter,
    *,
    per_s: float,
    canary_s: float | None,
    tell: Tell = lambda _: None,
) -> Moved:
    """Move the dead letters of one pipeline that ``wanted`` lets pass back into its job queue.

    A message keeps its group, its place in it and its number of attempts. Letters that describe
    no job stay: they would die again.

    Args:
        pipeline: whose.
        wanted: which.
        per_s: at most so many a second.
        canary_s: move one first and wait so many seconds at most for it to succeed; None moves
            all at once.
        tell: called with a line for each thing that happened.

    Raises:
        PermanentError: the canary did not succeed; the others were left where they are.
    """
    url, moved = dead_letter_url(pipeline), list[str]()
    pace = Pace(per_s)
    first: Letter | None = None
    with asking(f"move messages of {url}"):
        if canary_s is not None:
            first, before = _move_first(pipeline, url, wanted)
            if first is None:
                return Moved(())
            tell(f"{first.label} goes first")
            _await_success(pipeline, first, before, canary_s)
            tell(f"{first.label} succeeded")
            moved.append(first.label)
        for letter in _move_all(pipeline, url, wanted, pace, set(moved)):
            tell(f"{letter.label} moved")
            moved.append(letter.label)
    return Moved(tuple(moved), first.label if first else "")


def deduplication_id(letter: Letter) -> str:
    """The id under which a dead letter is sent again.

    Not its own, which SQS may still swallow, and always the same for the same letter.
    """
    own = AGAIN.sub("", letter.dedup)
    again = f":again-{letter.message_id}"
    if len(own) + len(again) > LONGEST_ID:
        own = hashlib.sha256(own.encode()).hexdigest()
    return own + again


def _move_first(pipeline: Pipeline, url: str, wanted: Filter) -> tuple[Letter | None, Cause]:
    """Move one letter; it, and what its stored state was before."""
    with Reading(aws.sqs(), url) as reading:
        for dead in _matching(pipeline, reading, wanted):
            _move(pipeline, reading, dead.letter)
            return dead.letter, dead.cause
    return None, Cause()


def _move_all(
    pipeline: Pipeline, url: str, wanted: Filter, pace: Pace, moved: set[str]
) -> Iterator[Letter]:
    """Move every letter; look again as long as some were moved, for those behind them.

    A job that was ``moved`` already and has died again meanwhile stays.
    """
    found = True
    while found:
        found = False
        with Reading(aws.sqs(), url) as reading:
            for dead in _matching(pipeline, reading, wanted):
                if dead.letter.label in moved:
                    continue
                pace.wait()
                reading.keep(dead.letter)
                _move(pipeline, reading, dead.letter)
                moved.add(dead.letter.label)
                found = True
                yield dead.letter


def _matching(pipeline: Pipeline, reading: Reading, wanted: Filter) -> Iterator[Dead]:
    for letter in reading.letters():
        [dead] = explained(pipeline, [letter])
        if letter.job is not None and wanted.takes(dead, datetime.now(UTC)):
            yield dead


def _move(pipeline: Pipeline, reading: Reading, letter: Letter) -> None:
    """Send, then delete: a message may be in both queues for a moment, never in none."""
    aws.sqs().send_message(
        QueueUrl=aws.queue_url(pipeline),
        MessageBody=letter.body,
        MessageAttributes=letter.attributes,
        MessageGroupId=letter.group,
        MessageDeduplicationId=deduplication_id(letter),
    )
    reading.delete(letter)


def _await_success(pipeline: Pipeline, letter: Letter, before: Cause, timeout_s: float) -> None:
    """Wait until a job has succeeded.

    Raises:
        PermanentError: it failed again, or did not end in time.
    """
    started_s = looked_s = time.monotonic()
    while time.monotonic() - started_s < timeout_s:
        if _succeeded(letter, before):
            return
        if time.monotonic() - looked_s > BACK_EVERY_S:
            looked_s = time.monotonic()
            if _is_dead(pipeline, letter):
                raise _no_help(letter, "dead_again", "it is a dead letter again")
        time.sleep(LOOK_EVERY_S)
    raise _no_help(letter, "timeout", f"it did not end within {timeout_s:.0f} s")


def _succeeded(letter: Letter, before: Cause) -> bool:
    """Whether the job has succeeded; False while it has not ended.

    Raises:
        PermanentError: it failed again.
    """
    assert letter.job is not None  # noqa: S101  only letters with a job are moved
    manifest = storage.read_manifest(aws.s3(), settings().output_bucket, letter.job)
    if manifest is not None and manifest.error is not None:
        raise _no_help(letter, manifest.error.code, manifest.error.message)
    now = cause_of(letter.task_id)
    if manifest is None and now.code and now.stored_at != before.stored_at:
        raise _no_help(letter, now.code, now.message)
    return manifest is not None


def _is_dead(pipeline: Pipeline, letter: Letter) -> bool:
    """Whether the job is dead again, as after its workers were killed, who store nothing."""
    return bool(browse([pipeline], Filter(ids=frozenset({letter.label}))))


def _no_help(letter: Letter, code: str, message: str) -> PermanentError:
    return PermanentError(
        "canary_failed",
        f"The job {letter.label}, sent first, did not succeed: {message} [{code}].",
        "The other dead letters were left where they are. Mend the cause, then redrive again.",
    )
