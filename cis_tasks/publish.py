"""Job → Celery protocol 2 message → SQS, without importing Celery.

Importing Celery costs a Lambda more than everything else it does, so the message is built here
and a test holds it equal to the one that Celery itself would send.

Source: https://docs.celeryq.dev/en/stable/internals/protocol.html
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.errors import PublishError
from cis_tasks.jobs import Job
from cis_tasks.pipelines import find
from cis_tasks.trace_context import ON, inject

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

MAX_BATCH = 10  # SQS limit: entries of one SendMessageBatch
MAX_BYTES = 1_048_576  # SQS limit: one message, and all messages of one batch together
NAMES_VARIABLE = "CIS_SHOW_NAMES"
LEGAL_GROUP = re.compile(r"[!-~]{1,128}")  # SQS limit: printable ASCII, no space


@dataclass(frozen=True)
class Message:
    """A job's message as SQS takes it.

    Attributes:
        job: the job.
        body: message body.
        group: ``MessageGroupId``.
        dedup: ``MessageDeduplicationId``.
    """

    job: Job
    body: str
    group: str
    dedup: str


@dataclass(frozen=True)
class Published:
    """What became of one job of a bulk publish.

    Attributes:
        job: the job.
        error: None where its message is in the queue.
    """

    job: Job
    error: PublishError | None = None


def message_for(job: Job, reply_to: str = "") -> Message:
    """The message of a job's first attempt.

    Args:
        job: the job.
        reply_to: address of the reply queue that is told of the job's states, before the job's
            own; see `cis_tasks.broker.replies`.

    Raises:
        PermanentError: the pipeline is not in the registry.
        PublishError: the job is larger than SQS takes.
    """
    pipeline = find(job.pipeline)
    group, dedup = message_group(pipeline.group_of(job)), deduplication_id(job.id, attempt=0)
    envelope = _envelope(job, pipeline.task, pipeline.queue, group, dedup)
    envelope["properties"]["reply_to"] = reply_to or job.reply_to
    body = _encode(envelope)
    if len(body) > MAX_BYTES:
        raise PublishError(
            "job_too_large",
            f"The message of job {job.id} has {len(body)} bytes; SQS takes {MAX_BYTES}.",
            "Put large parameters into an input object.",
        )
    return Message(job, body, group, dedup)


def message_group(subject: str) -> str:
    """``subject`` as a legal ``MessageGroupId``: itself where SQS takes it, else its hash.

    Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
    """
    if LEGAL_GROUP.fullmatch(subject):
        return subject
    return "sha256-" + hashlib.sha256(subject.encode()).hexdigest()


def deduplication_id(task_id: str, attempt: int) -> str:
    """One id per attempt: the 5-minute deduplication window must not swallow a retry."""
    return f"{task_id}:{attempt}"


def message_kwargs(job: Job) -> dict[str, Any]:
    """The keyword arguments with which the Celery task of ``job`` is called."""
    return {"job": job.to_dict()}


def arguments_repr(job: Job) -> str:
    """What logs, events and Flower show of the arguments: the id, and no name of a person.

    The name is shown where ``CIS_SHOW_NAMES`` asks for it.
    """
    if os.environ.get(NAMES_VARIABLE, "").lower() in ON:
        return f"{{'job': {job.id!r}, 'name': {job.name!r}}}"
    return f"{{'job': {job.id!r}}}"


def publish(sqs: SQSClient, queue_url: str, job: Job) -> None:
    """Put one job into its queue. Publishing the same job twice is harmless.

    Raises:
        PermanentError: the pipeline is not in the registry.
        PublishError: SQS did not take the message.
    """
    message = message_for(job)
    try:
        sqs.send_message(
            QueueUrl=queue_url,
            MessageBody=message.body,
            MessageGroupId=message.group,
            MessageDeduplicationId=message.dedup,
        )
    except (ClientError, BotoCoreError) as error:
        raise _refused(job, queue_url, str(error)) from error


def publish_many(
    sqs: SQSClient, queue_urls: Mapping[str, str], jobs: Iterable[Job], *, reply_to: str = ""
) -> list[Published]:
    """Put jobs into their queues, ten per call, each job once.

    Args:
        sqs: client.
        queue_urls: pipeline name → queue URL.
        jobs: any number of jobs, of any pipelines.
        reply_to: address of the reply queue that is told of their states.

    Returns:
        What became of each distinct job, in the order of their first appearance. One job's
        failure does not stop the others.

    Raises:
        PermanentError: a job's pipeline is not in the registry; nothing was sent.
    """
    distinct = {job.id: job for job in jobs}
    by_queue: dict[str, list[Message]] = {}
    errors: dict[str, PublishError] = {}
    for job_id, job in distinct.items():
        try:
            by_queue.setdefault(_queue_for(job, queue_urls), []).append(message_for(job, reply_to))
        except PublishError as error:
            errors[job_id] = error
    for queue_url, messages in by_queue.items():
        for batch in batches(messages):
            errors.update(_send_batch(sqs, queue_url, batch))
    return [Published(job, errors.get(job_id)) for job_id, job in distinct.items()]


def batches(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Cut messages into batches that SQS takes: ten at most, and 1 MiB together."""
    batch: list[Message] = []
    size = 0
    for message in messages:
        if batch and (len(batch) == MAX_BATCH or size + len(message.body) > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += len(message.body)
    if batch:
        yield batch


def _send_batch(sqs: SQSClient, queue_url: str, batch: list[Message]) -> dict[str, PublishError]:
    """Send up to ten messages; job id → error for those that SQS did not take."""
    entries: list[SendMessageBatchRequestEntryTypeDef] = [
        {
            "Id": str(index),
            "MessageBody": message.body,
            "MessageGroupId": message.group,
            "MessageDeduplicationId": message.dedup,
        }
        for index, message in enumerate(batch)
    ]
    try:
        answer = sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)
    except (ClientError, BotoCoreError) as error:
        return {m.job.id: _refused(m.job, queue_url, str(error)) for m in batch}
    failed = {}
    for entry in answer.get("Failed", []):
        job = batch[int(entry["Id"])].job
        failed[job.id] = _refused(job, queue_url, f"{entry['Code']}: {entry.get('Message', '')}")
    return failed


def _queue_for(job: Job, queue_urls: Mapping[str, str]) -> str:
    try:
        return queue_urls[job.pipeline]
    except KeyError:
        raise PublishError(
            "queue_unknown",
            f"No queue URL is known for the pipeline {job.pipeline!r}.",
            f"Set {find(job.pipeline).queue_variable}.",
        ) from None


def _refused(job: Job, queue_url: str, why: str) -> PublishError:
    return PublishError(
        "publish_failed",
        f"SQS did not take the message of job {job.id} into {queue_url}: {why}.",
        "Nothing was queued for it; publishing again is safe.",
    )


def _envelope(job: Job, task: str, queue: str, group: str, dedup: str) -> dict[str, Any]:
    """The message as kombu puts it on the wire."""
    headers = _headers(job, task)
    inject(headers)
    arguments = [
        [],
        message_kwargs(job),
        dict.fromkeys(("callbacks", "errbacks", "chain", "chord")),
    ]
    return {
        "body": _base64(json.dumps(arguments)),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": job.id,
            "reply_to": "",
            "argsrepr": "()",
            "kwargsrepr": arguments_repr(job),
            "MessageGroupId": group,
            "MessageDeduplicationId": dedup,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def _headers(job: Job, task: str) -> dict[str, Any]:
    """The headers of protocol 2, in Celery's order."""
    return {
        "lang": "py",
        "task": task,
        "id": job.id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": job.id,
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": arguments_repr(job),
        "origin": f"gen{os.getpid()}@{socket.gethostname()}",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }


def _encode(envelope: Mapping[str, Any]) -> str:
    return _base64(json.dumps(envelope))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
