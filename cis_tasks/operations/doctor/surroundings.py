"""Checks of what is around: clock, leftovers, rights, quotas, versions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from cis_tasks import aws
from cis_tasks.broker.owners import INSTALLATION_TAG, Owner
from cis_tasks.operations.asking import refused
from cis_tasks.operations.doctor.installation import Installation
from cis_tasks.operations.doctor.registry import Level, Problem, check

SKEW_WARNING_S = 60.0
SKEW_ERROR_S = 240.0  # AWS refuses signatures that are 5 minutes off
NOBODY = "celery/doctor"  # no object of ours is called so
KNOWN = {"celery": ("5.7", "5.8"), "kombu": ("5.7", "5.8")}
FEWEST_LAMBDAS = 10


@check("clock.skew")
def clock(installation: Installation) -> Iterator[Problem]:
    """Does this machine's clock agree with AWS's?"""
    answer = aws.s3().head_bucket(Bucket=installation.settings.output_bucket)
    said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if not said:
        return
    skew_s = abs((datetime.now(UTC) - parsedate_to_datetime(said)).total_seconds())
    if skew_s > SKEW_WARNING_S:
        yield (
            Level.ERROR if skew_s > SKEW_ERROR_S else Level.WARNING,
            f"This machine's clock is {skew_s:.0f} s off.",
            "AWS refuses calls that are signed five minutes too early or too late.",
            "Let chrony or systemd-timesyncd run.",
        )


@check("control.orphans")
def orphans(installation: Installation) -> Iterator[Problem]:
    """Have processes left control queues behind?"""
    prefix = installation.settings.control_prefix
    pages = aws.sqs().get_paginator("list_queues")
    left = []
    for page in pages.paginate(QueueNamePrefix=prefix, PaginationConfig={"PageSize": 1000}):
        for url in page.get("QueueUrls", []):
            tags = aws.sqs().list_queue_tags(QueueUrl=url).get("Tags", {})
            owner = Owner.of(tags)
            if tags.get(INSTALLATION_TAG) == prefix and owner is not None and owner.gone():
                left.append(url.rpartition("/")[2])
    if left:
        yield (
            Level.WARNING,
            f"{len(left)} control queues belong to processes that are gone: {', '.join(left)}.",
            "SNS copies every command and event into each of them, and each copy is paid for.",
            "Start a worker: it deletes them.",
        )


@check("permissions.calls")
def permissions(installation: Installation) -> Iterator[Problem]:
    """May these credentials do what a worker does? Asked by calls that change nothing."""
    for right, call in _dry_calls(installation):
        try:
            call()
        except ClientError as error:
            if refused(error):
                yield (
                    Level.ERROR,
                    f"These credentials may not {right}.",
                    "A worker with them cannot do its jobs.",
                    "Use the worker's role of deploy/template.yaml; ignore this elsewhere.",
                )


def _dry_calls(installation: Installation) -> Iterator[tuple[str, Callable[[], Any]]]:
    """A right and a call that needs it; what SQS and S3 refuse for other reasons is allowed."""
    s3, sqs, settings = aws.client("s3"), aws.client("sqs"), installation.settings
    for bucket in (settings.input_bucket, settings.output_bucket):
        yield f"list {bucket}", partial(s3.list_objects_v2, Bucket=bucket, MaxKeys=1)
        yield f"read {bucket}", partial(s3.get_object, Bucket=bucket, Key=NOBODY)
    impossible = {"Bucket": settings.output_bucket, "Key": NOBODY, "IfMatch": '"0"'}
    yield f"write {settings.output_bucket}", partial(s3.put_object, **impossible, Body=b"")
    for pipeline in installation.pipelines.values():
        url = installation.url(pipeline)
        held = {"QueueUrl": url, "ReceiptHandle": "AQEB"}
        extend = partial(sqs.change_message_visibility, **held, VisibilityTimeout=0)
        yield f"extend messages of {url}", extend
        yield f"delete messages of {url}", partial(sqs.delete_message, **held)
        groupless = partial(sqs.send_message, QueueUrl=url, MessageBody="-")
        yield f"send messages to {url}", groupless  # refused by a FIFO queue, if by nobody else


@check("quotas.functions")
def functions(installation: Installation) -> Iterator[Problem]:
    """May enough functions run at once?"""
    if installation.function() is None:
        return
    limit = aws.client("lambda").get_account_settings()["AccountLimit"]
    left = limit.get("UnreservedConcurrentExecutions", FEWEST_LAMBDAS)
    if left < FEWEST_LAMBDAS:
        yield (
            Level.WARNING,
            f"Only {left} functions of this account may run at once.",
            "Events of many uploads wait or are given up after six hours.",
            "Ask for a higher quota of concurrent executions, or release reservations.",
        )


@check("versions.libraries", asks_aws=False)
def libraries(_installation: Installation) -> Iterator[Problem]:
    """Are the libraries the ones that this was tested with?"""
    for name, (least, below) in KNOWN.items():
        found = importlib.metadata.version(name)
        if not _parts(least) <= _parts(found) < _parts(below):
            yield (
                Level.ERROR,
                f"{name} is {found}.",
                f"The broker layer reaches into {name}'s insides, and knows {least}.",
                f"pip install '{name}>={least},<{below}'",
            )
    if importlib.util.find_spec("pycurl") is None:
        yield (
            Level.NOTE,
            "pycurl is not installed.",
            "A worker needs it; a client does not.",
            "On a worker: pip install 'cis-tasks[worker]'.",
        )


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
