"""boto3 clients of the result backend: one of each kind per process, made when first used."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import boto3
from botocore.config import Config

from cis_tasks.broker.lean import lean_s3, lean_sqs

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_sqs.client import SQSClient

LEANER: Mapping[str, Callable[[Any], Any]] = {
    "s3": lean_s3,
    "sqs": partial(lean_sqs, patient=True),
}
MAX_CONNECTIONS = 32  # of one client: its threads share them
CONFIG = Config(
    retries={"mode": "standard", "max_attempts": 5},
    connect_timeout=10,
    read_timeout=60,  # longer than SQS's longest poll
    max_pool_connections=MAX_CONNECTIONS,
    user_agent_extra="cis-tasks",
)


@dataclass(frozen=True)
class Access:
    """How to reach one AWS service; what is None comes from boto3's standard chain.

    Attributes:
        region: its region.
        endpoint_url: its endpoint, where it is not AWS's own.
        access_key_id: with ``secret_access_key``, credentials of its own.
        secret_access_key: see there.
    """

    region: str | None = None
    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None


def s3(access: Access) -> S3Client:
    """The process's S3 client for ``access``."""
    return cast("S3Client", _client("s3", access))


def sqs(access: Access) -> SQSClient:
    """The process's SQS client for ``access``."""
    return cast("SQSClient", _client("sqs", access))


_made: dict[tuple[str, Access], Any] = {}
_making = threading.Lock()  # boto3 sessions are not safe to share; the clients are


def _client(service: str, access: Access) -> Any:
    with _making:
        if (service, access) not in _made:
            session = boto3.Session(
                aws_access_key_id=access.access_key_id,
                aws_secret_access_key=access.secret_access_key,
                region_name=access.region,
            )
            client = session.client(
                service,
                endpoint_url=access.endpoint_url,
                config=CONFIG,
            )
            _made[service, access] = LEANER[service](client)
        return _made[service, access]


def _forget_in_child() -> None:
    """A forked child shares its parent's sockets: it makes its own clients."""
    global _making  # noqa: PLW0603  the parent may have held it
    _making = threading.Lock()
    _made.clear()


os.register_at_fork(after_in_child=_forget_in_child)
