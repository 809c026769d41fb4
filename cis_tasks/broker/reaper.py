"""Removal of the queues and subscriptions of processes that are gone.

A process deletes what it owns when it exits. One that was killed cannot, so every worker looks
once, when it starts, for what others of its installation have left.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.broker.owners import INSTALLATION_TAG, SUBSCRIPTION_TAG, Owner

logger = logging.getLogger(__name__)


def reap(sqs: Any, sns: Any, installation: str) -> list[str]:
    """Delete the queues whose owners are gone, and what they are subscribed to.

    A queue is somebody else's, and left alone, unless its tags name this installation and an
    owner. An owner on this host is gone when its process is; one on another host when it has not
    renewed its sign of life for `cis_tasks.broker.owners.SILENT_S`.

    Args:
        sqs: a boto3 client.
        sns: a boto3 client.
        installation: the ``queue_name_prefix`` of its transport.

    Returns:
        The names of the queues deleted.

    Raises:
        ClientError: the queues may not be listed.
    """
    return [
        url.rpartition("/")[2]
        for url in _urls(sqs, installation)
        if _reap_if_left(sqs, sns, url, installation)
    ]


def reap_of(app: Any) -> list[str]:
    """`reap` for a Celery app that uses `cis_tasks.broker.transport`."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        return reap(channel.sqs(), channel.fanout.get_client(), channel.installation)


def reap_quietly(sqs: Any, sns: Any, installation: str) -> None:
    """`reap` for a thread: what fails is logged."""
    try:
        reap(sqs, sns, installation)
    except (ClientError, BotoCoreError) as error:
        logger.warning("Queues of processes that are gone could not be looked for: %s", error)


def _urls(sqs: Any, prefix: str) -> Iterator[str]:
    pages = sqs.get_paginator("list_queues").paginate(
        QueueNamePrefix=prefix, PaginationConfig={"PageSize": 1000}
    )
    for page in pages:
        yield from page.get("QueueUrls", [])


def _reap_if_left(sqs: Any, sns: Any, url: str, installation: str) -> bool:
    try:
        tags = sqs.list_queue_tags(QueueUrl=url).get("Tags", {})
        owner = Owner.of(tags)
        if tags.get(INSTALLATION_TAG) != installation or owner is None or not owner.gone():
            return False
        for arn in _subscriptions(tags):
            sns.unsubscribe(SubscriptionArn=arn)
        sqs.delete_queue(QueueUrl=url)
    except (ClientError, BotoCoreError) as error:  # another reaper may have been quicker
        logger.info("%s was not reaped: %s", url, error)
        return False
    logger.info("Deleted %s: its process, pid %d on %s, is gone", url, owner.pid, owner.host)
    return True


def _subscriptions(tags: Mapping[str, str]) -> list[str]:
    return [arn for name, arn in tags.items() if name.startswith(SUBSCRIPTION_TAG)]
