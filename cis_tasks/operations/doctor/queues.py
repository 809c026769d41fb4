"""Checks of the job queues and their dead letters."""

from __future__ import annotations

from collections.abc import Iterator

from cis_tasks import aws
from cis_tasks.operations.dead_letters import dead_letter_url
from cis_tasks.operations.doctor.installation import Installation
from cis_tasks.operations.doctor.registry import Level, Problem, check
from cis_tasks.pipelines import Pipeline

SHORTEST_VISIBILITY_S = 30
LONGEST_VISIBILITY_S = 1800
SHORTEST_RETENTION_S = 4 * 86400
MOST_IN_FLIGHT = 120_000  # SQS quota of a FIFO queue
TEMPLATE = "Deploy deploy/template.yaml, which has it right."


def _queues(installation: Installation) -> Iterator[tuple[Pipeline, str]]:
    for pipeline in installation.pipelines.values():
        yield pipeline, installation.url(pipeline)


@check("queues.fifo")
def fifo(installation: Installation) -> Iterator[Problem]:
    """Are they FIFO queues of high throughput?"""
    for _, url in _queues(installation):
        attributes = installation.queue(url)
        if attributes.get("FifoQueue") != "true":
            yield (
                Level.ERROR,
                f"{url} is no FIFO queue.",
                "A standard queue keeps no order and delivers twice.",
                TEMPLATE,
            )
        elif attributes.get("FifoThroughputLimit") != "perMessageGroupId":
            yield (
                Level.NOTE,
                f"{url} has the throughput limit of a whole queue.",
                "SQS takes 300 calls a second of each kind for it, instead of per group.",
                "Set DeduplicationScope to messageGroup, FifoThroughputLimit to perMessageGroupId.",
            )


@check("queues.deduplication")
def deduplication(installation: Installation) -> Iterator[Problem]:
    """Would SQS take equal bodies for the same message?"""
    for _, url in _queues(installation):
        if installation.queue(url).get("ContentBasedDeduplication") == "true":
            yield (
                Level.WARNING,
                f"{url} deduplicates by content.",
                "A message without an id of its own is swallowed where another had its body.",
                "Switch ContentBasedDeduplication off; every message of ours has its own id.",
            )


@check("queues.visibility")
def visibility(installation: Installation) -> Iterator[Problem]:
    """Is the visibility timeout one that leases can keep up?"""
    limit_s = installation.settings.time_limit_s
    ours = installation.conf.broker_transport == "cis_tasks.broker.transport:Transport"
    for _, url in _queues(installation):
        timeout_s = int(installation.queue(url).get("VisibilityTimeout", 30))
        if not ours and timeout_s <= limit_s:
            yield (
                Level.ERROR,
                f"{url} shows a message again after {timeout_s} s; a job may run {limit_s} s.",
                "Nothing extends it: a job that takes longer runs twice.",
                f"Use our transport, or set VisibilityTimeout above {limit_s}.",
            )
        elif timeout_s < SHORTEST_VISIBILITY_S:
            yield (
                Level.WARNING,
                f"{url} shows a message again after {timeout_s} s.",
                (
                    "A worker that is held up for so long loses its job to another, and every job "
                    "costs an extension in each third of it."
                ),
                "Set VisibilityTimeout to 120.",
            )
        elif timeout_s > LONGEST_VISIBILITY_S:
            yield (
                Level.WARNING,
                f"{url} shows a message again after {timeout_s} s only.",
                "That is how long the job of a killed worker waits for another one.",
                "Set VisibilityTimeout to 120; workers extend it while they run a job.",
            )


@check("queues.redrive")
def redrive(installation: Installation) -> Iterator[Problem]:
    """Do jobs that cannot be done leave the queue, and not too soon?"""
    for pipeline, url in _queues(installation):
        policy = installation.redrive_policy(pipeline)
        if not policy:
            yield (
                Level.ERROR,
                f"{url} has no redrive policy.",
                "A message that cannot be handled comes back for ever, or is deleted.",
                TEMPLATE,
            )
            continue
        receives = int(policy["maxReceiveCount"])
        if receives < 2:
            yield (
                Level.ERROR,
                f"{url} gives a message up after {receives} receive.",
                "One killed worker, as of a spot machine, and the job is a dead letter.",
                "Set maxReceiveCount to 3.",
            )
        elif receives > 10:
            yield (
                Level.WARNING,
                f"{url} gives a message up after {receives} receives only.",
                "A message that kills its worker kills so many of them first.",
                "Set maxReceiveCount to 3.",
            )


@check("queues.dead_letters")
def dead_letters(installation: Installation) -> Iterator[Problem]:
    """Is the dead-letter queue right, and empty?"""
    for pipeline, _ in _queues(installation):
        if not installation.redrive_policy(pipeline):
            continue
        url = dead_letter_url(pipeline)
        attributes = installation.queue(url)
        if attributes.get("FifoQueue") != "true":
            yield (
                Level.ERROR,
                f"{url} is no FIFO queue.",
                "SQS moves nothing from a FIFO queue into a standard one.",
                TEMPLATE,
            )
        retention_s = int(attributes.get("MessageRetentionPeriod", 0))
        if retention_s < SHORTEST_RETENTION_S:
            yield (
                Level.WARNING,
                f"{url} keeps a message for {retention_s / 86400:.1f} days.",
                "What dies on a Friday is gone before somebody looks.",
                "Set MessageRetentionPeriod to 1209600, 14 days.",
            )
        waiting = int(attributes.get("ApproximateNumberOfMessages", 0))
        if waiting:
            yield (
                Level.WARNING,
                f"{waiting} dead letters are in {url}.",
                "They are jobs that were not done.",
                f"`cis dlq list --pipeline {pipeline.name}`, mend the cause, `cis dlq redrive`.",
            )


@check("queues.undelivered")
def undelivered(installation: Installation) -> Iterator[Problem]:
    """Are there upload events that the Lambda could not handle?"""
    name = installation.settings.undelivered_queue
    url = aws.sqs().get_queue_url(QueueName=name)["QueueUrl"]
    waiting = int(installation.queue(url).get("ApproximateNumberOfMessages", 0))
    if waiting:
        yield (
            Level.WARNING,
            f"{waiting} upload events were not handled; they are in {name}.",
            "Complete inputs may have made no job.",
            (
                "See the function's log for the reason, then run `cis sweep`. The events expire by "
                "themselves."
            ),
        )


@check("queues.encryption")
def encryption(installation: Installation) -> Iterator[Problem]:
    """Are messages encrypted at rest?"""
    for _, url in _queues(installation):
        attributes = installation.queue(url)
        managed = attributes.get("SqsManagedSseEnabled", "true") != "false"
        if not managed and not attributes.get("KmsMasterKeyId"):
            yield (
                Level.WARNING,
                f"{url} is not encrypted at rest.",
                "Messages name sessions, which are of people.",
                "Set SqsManagedSseEnabled.",
            )


@check("quotas.in_flight")
def in_flight(installation: Installation) -> Iterator[Problem]:
    """Is there room below SQS's limit of messages in flight?"""
    for _, url in _queues(installation):
        count = int(installation.queue(url).get("ApproximateNumberOfMessagesNotVisible", 0))
        if count > 0.8 * MOST_IN_FLIGHT:
            yield (
                Level.WARNING,
                f"{count} messages of {url} are in flight; SQS allows {MOST_IN_FLIGHT}.",
                "Beyond it, receives find nothing.",
                "Lower worker_prefetch_multiplier, or look for workers that do not finish.",
            )
