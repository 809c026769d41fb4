"""The dead-letter queues: what is in them, and why."""

from __future__ import annotations

import fnmatch
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cis_tasks.tasks  # noqa: F401  its error types, so that failures come back typed
from cis_tasks import aws
from cis_tasks.app import app
from cis_tasks.errors import JobError, PermanentError
from cis_tasks.operations.asking import asking
from cis_tasks.operations.letters import Letter
from cis_tasks.operations.reading import Reading
from cis_tasks.pipelines import PIPELINES, Pipeline

PARALLEL_READS = 16


@dataclass(frozen=True)
class Cause:
    """Why a job was given up, as far as its last stored state says.

    Attributes:
        code: a `JobError`'s code, else the error's type; empty where nothing is stored, as when
            every worker that had it was killed.
        message: its words.
        stored_at: when the state was stored, as Celery wrote it.
    """

    code: str = ""
    message: str = ""
    stored_at: str = ""


@dataclass(frozen=True)
class Dead:
    """One dead letter.

    Attributes:
        pipeline: whose queue it is in.
        letter: the message.
        cause: why it is there.
    """

    pipeline: Pipeline
    letter: Letter
    cause: Cause

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        job = self.letter.job
        return {
            "message_id": self.letter.message_id,
            "job_id": self.letter.task_id or None,
            "pipeline": self.pipeline.name,
            "name": job.name if job else None,
            "sent_at": self.letter.sent_at.isoformat(),
            "receives": self.letter.receives,
            "attempt": self.letter.retries + 1,
            "group": self.letter.group,
            "problem": self.letter.problem or None,
            "error": {"code": self.cause.code, "message": self.cause.message},
            "job": job.to_dict() if job else None,
        }


@dataclass(frozen=True)
class Filter:
    """Which dead letters are meant; what is left out lets all pass.

    Attributes:
        ids: job or message ids.
        name: pattern of the job's name, with ``*`` and ``?``.
        error: text in the error's code or message, in any case.
        older_than_s: dead for at least this long.
        newer_than_s: dead for at most this long.
    """

    ids: frozenset[str] = frozenset()
    name: str = ""
    error: str = ""
    older_than_s: float = 0.0
    newer_than_s: float = float("inf")

    def takes(self, dead: Dead, now: datetime) -> bool:
        """Whether it lets ``dead`` pass."""
        letter, age_s = dead.letter, dead.letter.age_s(now)
        name = letter.job.name if letter.job else ""
        return (
            (not self.ids or bool(self.ids & {letter.task_id, letter.message_id}))
            and (not self.name or fnmatch.fnmatchcase(name, self.name))
            and self.error.lower() in f"{dead.cause.code} {dead.cause.message}".lower()
            and self.older_than_s <= age_s <= self.newer_than_s
        )


def dead_letter_url(pipeline: Pipeline) -> str:
    """The URL of the pipeline's dead-letter queue, as the redrive policy of its queue names it.

    Raises:
        PermanentError: the queue has no redrive policy.
    """
    url = aws.queue_url(pipeline)
    with asking(f"read the attributes of {url}"):
        answer = aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])
        policy = answer.get("Attributes", {}).get("RedrivePolicy")
        if not policy:
            raise PermanentError(
                "no_dead_letters",
                f"The queue {url} has no redrive policy.",
                "Deploy deploy/template.yaml; without one, bad messages come back for ever.",
            )
        arn = json.loads(policy)["deadLetterTargetArn"].split(":")
        return aws.sqs().get_queue_url(QueueName=arn[5], QueueOwnerAWSAccountId=arn[4])["QueueUrl"]


def browse(
    pipelines: Iterable[Pipeline], wanted: Filter, *, limit: int | None = None
) -> list[Dead]:
    """The dead letters of some pipelines, oldest first; all are given back.

    Args:
        pipelines: of which.
        wanted: which of them.
        limit: look at no more than so many of each queue.
    """
    found: list[Dead] = []
    now = datetime.now(UTC)
    for pipeline in pipelines:
        url = dead_letter_url(pipeline)
        with asking(f"read {url}"), Reading(aws.sqs(), url) as reading:
            letters = list(itertools.islice(reading.letters(), limit))
        dead = explained(pipeline, letters)
        found += [each for each in dead if wanted.takes(each, now)]
    return sorted(found, key=lambda dead: dead.letter.sent_at)


def find(label: str) -> Dead:
    """The dead letter with this job or message id.

    Raises:
        PermanentError: there is none.
    """
    found = browse(PIPELINES.values(), Filter(ids=frozenset({label})))
    if not found:
        raise PermanentError(
            "letter_unknown",
            f"No dead letter has the id {label}.",
            "`cis dlq list` shows them all.",
        )
    return found[0]


def explained(pipeline: Pipeline, letters: Sequence[Letter]) -> list[Dead]:
    """Letters with their causes, which are read from S3."""
    with asking("read the states of tasks"):
        return [Dead(pipeline, *pair) for pair in zip(letters, _causes(letters), strict=True)]


def cause_of(task_id: str) -> Cause:
    """Why a job was given up, as its stored state says."""
    if not task_id:
        return Cause()
    meta = app.backend.get_task_meta(task_id, cache=False)
    result, stored_at = meta.get("result"), str(meta.get("date_done") or "")
    if isinstance(result, JobError):
        return Cause(result.code, result.message, stored_at)
    if isinstance(result, BaseException):
        return Cause(type(result).__name__, str(result), stored_at)
    return Cause(stored_at=stored_at)


def _causes(letters: Sequence[Letter]) -> Iterator[Cause]:
    with ThreadPoolExecutor(PARALLEL_READS) as readers:
        yield from readers.map(cause_of, [letter.task_id for letter in letters])
