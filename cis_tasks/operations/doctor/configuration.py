"""Checks of Celery's configuration, which need no AWS."""

from __future__ import annotations

from collections.abc import Iterator

from celery import signals

from cis_tasks.broker.leases import MAX_HELD_S
from cis_tasks.operations.doctor.installation import Installation
from cis_tasks.operations.doctor.registry import Level, Problem, check

OUR_TRANSPORT = "cis_tasks.broker.transport:Transport"
OUR_CONSUMER = "cis_tasks.broker.consumer:Consumer"


@check("configuration.transport", asks_aws=False)
def transport(installation: Installation) -> Iterator[Problem]:
    """Is our layer in use?"""
    conf = installation.conf
    if conf.broker_transport != OUR_TRANSPORT:
        yield (
            Level.ERROR,
            f"broker_transport is {conf.broker_transport!r}.",
            "kombu's own extends no visibility timeout: a job that outlasts it runs twice.",
            f"Set broker_transport = {OUR_TRANSPORT!r}.",
        )
    if conf.worker_consumer != OUR_CONSUMER:
        yield (
            Level.ERROR,
            f"worker_consumer is {conf.worker_consumer!r}.",
            "With Celery's own, one malformed message ends the worker.",
            f"Set worker_consumer = {OUR_CONSUMER!r}.",
        )


@check("configuration.acks", asks_aws=False)
def acks(installation: Installation) -> Iterator[Problem]:
    """Is a message kept until its effect is there?"""
    conf = installation.conf
    wanted = {
        "task_acks_late": (True, "A worker that is killed takes its jobs with it."),
        "task_reject_on_worker_lost": (True, "A killed pool process takes its job with it."),
        "task_acks_on_timeout": (False, "A job that runs out of time is deleted, not repeated."),
    }
    for name, (value, why) in wanted.items():
        if bool(conf.get(name)) is not value:
            yield Level.ERROR, f"{name} is {conf.get(name)!r}.", why, f"Set {name} = {value}."


@check("configuration.prefetch", asks_aws=False)
def prefetch(installation: Installation) -> Iterator[Problem]:
    """Does a worker hoard jobs?"""
    multiplier = installation.conf.worker_prefetch_multiplier
    if multiplier == 0:
        yield (
            Level.ERROR,
            "worker_prefetch_multiplier is 0: a worker takes all that there is.",
            "One worker holds every message, and others that are started get none.",
            "Set worker_prefetch_multiplier = 1.",
        )
    elif multiplier > 1 and installation.conf.worker_concurrency == 1:
        yield (
            Level.WARNING,
            f"worker_prefetch_multiplier is {multiplier} for one job at a time.",
            "Jobs wait behind a long one in a busy worker while others are idle.",
            "Set worker_prefetch_multiplier = 1.",
        )


@check("configuration.limits", asks_aws=False)
def limits(installation: Installation) -> Iterator[Problem]:
    """Does every job end, and before SQS takes it back?"""
    limit_s = installation.conf.task_time_limit
    if not limit_s:
        yield (
            Level.WARNING,
            "There is no task_time_limit.",
            "A job that hangs blocks its worker until SQS takes its message back, 12 h later.",
            "Set CIS_TIME_LIMIT_S.",
        )
    elif limit_s >= MAX_HELD_S:
        yield (
            Level.ERROR,
            f"Jobs may run for {limit_s} s, SQS hides a message for {MAX_HELD_S} s at most.",
            "A job that takes longer is given to another worker and runs twice.",
            "Set CIS_TIME_LIMIT_S below 43200.",
        )


@check("configuration.content", asks_aws=False)
def content(installation: Installation) -> Iterator[Problem]:
    """Can a message run code?"""
    conf = installation.conf
    for name in ("accept_content", "result_accept_content"):
        accepted = set(conf.get(name) or ())
        if not accepted <= {"json", "application/json"}:
            yield (
                Level.ERROR,
                f"{name} is {sorted(accepted)}.",
                "Who can write a pickle into the queue or the bucket runs code on the workers.",
                f'Set {name} = ["json"].',
            )


@check("configuration.groups", asks_aws=False)
def groups(installation: Installation) -> Iterator[Problem]:
    """Does every message get a group and a deduplication id of its own?"""
    ours = any(
        "cis_tasks.broker.fifo" in str(lookup)
        for lookup, _ in signals.before_task_publish.receivers or ()
    )
    if not ours:
        yield (
            Level.ERROR,
            "Nothing sets MessageGroupId and MessageDeduplicationId.",
            "kombu puts all messages into one group: one worker works however many there are.",
            "Call cis_tasks.broker.fifo.install(), as cis_tasks.app does.",
        )
    missing = [
        pipeline.queue
        for pipeline in installation.pipelines.values()
        if not pipeline.queue.endswith(".fifo")
    ]
    for queue in missing:
        yield (
            Level.ERROR,
            f"The queue {queue} is not called .fifo.",
            "SQS wants the ending, and a standard queue keeps neither order nor deduplication.",
            "Rename it in cis_tasks/pipelines.py.",
        )
