"""Emptying a queue, past guards."""

from __future__ import annotations

from dataclasses import dataclass

from cis_tasks import aws
from cis_tasks.errors import PermanentError
from cis_tasks.operations.asking import asking
from cis_tasks.operations.dead_letters import dead_letter_url
from cis_tasks.pipelines import PIPELINES
from scaling.backlog import Backlog, read_backlog


@dataclass(frozen=True)
class Target:
    """A queue of this installation.

    Attributes:
        url: its URL.
        backlog: what is in it.
    """

    url: str
    backlog: Backlog

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.url.rpartition("/")[2]


def target(queue: str, *, dead: bool = False) -> Target:
    """The queue that people mean; only those of a pipeline can be meant.

    Args:
        queue: a pipeline, or the name of its queue or dead-letter queue.
        dead: a pipeline's dead-letter queue instead.

    Raises:
        PermanentError: it is none of them.
        TransientError: AWS did not answer.
    """
    for pipeline in PIPELINES.values():
        if queue == pipeline.name:
            url = dead_letter_url(pipeline) if dead else aws.queue_url(pipeline)
            return _target(url)
    urls = [aws.queue_url(pipeline) for pipeline in PIPELINES.values()]
    urls += [dead_letter_url(pipeline) for pipeline in PIPELINES.values()]
    for url in urls:
        if queue in {url, url.rpartition("/")[2]}:
            return _target(url)
    raise PermanentError(
        "queue_unknown",
        f"{queue!r} is no queue of this installation.",
        f"They are {', '.join(url.rpartition('/')[2] for url in urls)}.",
    )


def purge(queue: Target) -> None:
    """Delete all messages of a queue. Jobs that run go on, but are not repeated if they fail.

    Raises:
        TransientError: AWS did not do it; it does so once a minute at most.

    Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_PurgeQueue.html
    """
    with asking(f"purge {queue.name}"):
        aws.sqs().purge_queue(QueueUrl=queue.url)


def _target(url: str) -> Target:
    with asking(f"read the attributes of {url}"):
        return Target(url, read_backlog(aws.sqs(), url))
