"""boto3 clients, and the two things that AWS is asked before any work: where and which queue."""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Any, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

from cis_tasks.broker.lean import lean_s3 as made_lean
from cis_tasks.errors import SettingsError
from cis_tasks.pipelines import Pipeline
from cis_tasks.settings import settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_sqs.client import SQSClient

CONFIG = Config(
    retries={"mode": "standard", "max_attempts": 5},
    max_pool_connections=64,  # a worker's threads share the client
    connect_timeout=10,
    read_timeout=60,
    user_agent_extra="cis-tasks",
)


def s3() -> S3Client:
    """The process's S3 client; AWS_ENDPOINT_URL and the standard chain decide where it points.

    Raises:
        SettingsError: no AWS region is configured.
    """
    return cast("S3Client", _client("s3", os.getpid()))


def lean_s3() -> S3Client:
    """The same for those who read and write many small objects, see `cis_tasks.lean_s3`.

    Raises:
        SettingsError: no AWS region is configured.
    """
    return cast("S3Client", _lean(os.getpid()))


def sqs() -> SQSClient:
    """The process's SQS client.

    Raises:
        SettingsError: no AWS region is configured.
    """
    return cast("SQSClient", _client("sqs", os.getpid()))


def client(service: str) -> Any:
    """The process's client of another service, such as ``sns``.

    Raises:
        SettingsError: no AWS region is configured.
    """
    return _client(service, os.getpid())


@functools.cache
def queue_url(pipeline: Pipeline) -> str:
    """The URL of the pipeline's queue: as set, else by its default name.

    Raises:
        SettingsError: it is not set and SQS does not know the name or refuses to say.
    """
    given = settings().queue_urls.get(pipeline.name)
    if given:
        return given
    try:
        return sqs().get_queue_url(QueueName=pipeline.queue)["QueueUrl"]
    except (ClientError, BotoCoreError) as error:
        raise SettingsError(
            f"The queue {pipeline.queue} of the pipeline {pipeline.name!r} was not found: {error}. "
            f"Set {pipeline.queue_variable} to the URL of its queue, "
            "or AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and the credentials to where it is."
        ) from error


_making = threading.RLock()  # boto3's session is not for several threads at once


@functools.cache
def _client(service: str, pid: int) -> object:  # noqa: ARG001  a forked child needs its own
    try:
        with _making:
            return boto3.client(service, config=CONFIG)
    except NoRegionError as error:
        raise SettingsError("No AWS region is configured: set AWS_DEFAULT_REGION.") from error


@functools.cache
def _lean(pid: int) -> object:
    return made_lean(_client("s3", pid))
