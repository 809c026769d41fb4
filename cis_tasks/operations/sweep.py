"""Complete inputs without a result: found, and published again.

S3 tells of an upload at least once, but an event can be lost to a function that was broken for
longer than it is retried, and files that were in the bucket before the stack stood had none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

from cis_tasks import aws, storage
from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job
from cis_tasks.operations import dead_letters
from cis_tasks.operations.complete import complete_jobs
from cis_tasks.operations.pace import Pace
from cis_tasks.pipelines import Pipeline, find
from cis_tasks.publish import publish_many
from cis_tasks.settings import settings


def unanswered(
    pipelines: Iterable[Pipeline], *, name: str = "*", older_than_s: float = 0.0
) -> Iterator[Job]:
    """Jobs whose inputs are complete, that have no manifest and are no dead letters.

    Args:
        pipelines: of which pipelines.
        name: pattern of the names, with ``*`` and ``?``.
        older_than_s: leave out what was uploaded later: it is in the queue, most likely.

    Raises:
        TransientError: AWS did not answer.
    """
    s3, bucket = aws.s3(), settings().output_bucket
    until = datetime.now(UTC) - timedelta(seconds=older_than_s)
    for pipeline in pipelines:
        dead = _dead(pipeline)
        for job in complete_jobs(pipeline, name=name, until=until):
            if job.id not in dead and storage.read_manifest(s3, bucket, job) is None:
                yield job


def publish_slowly(
    jobs: Iterable[Job], per_s: float, tell: Callable[[Job], None] = lambda _: None
) -> int:
    """Publish jobs one by one; how many.

    One that is in its queue already, or runs, is not done twice: SQS swallows the message, or the
    worker answers it from the manifest.

    Raises:
        PublishError: SQS did not take one.
    """
    pace, count = Pace(per_s), 0
    for job in jobs:
        pace.wait()
        urls = {job.pipeline: aws.queue_url(find(job.pipeline))}
        [published] = publish_many(aws.sqs(), urls, [job])
        if published.error is not None:
            raise published.error
        tell(job)
        count += 1
    return count


def _dead(pipeline: Pipeline) -> set[str]:
    """Ids of the jobs in the dead-letter queue: these wait for `cis dlq redrive`."""
    try:
        letters = dead_letters.browse([pipeline], dead_letters.Filter())
    except PermanentError as error:
        if error.code == "no_dead_letters":
            return set()
        raise
    return {dead.letter.task_id for dead in letters}
