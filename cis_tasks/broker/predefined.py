"""Job queues: where they are, their visibility timeouts, and clients that fail soon."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
from typing import Any

from botocore.client import Config
from botocore.exceptions import ClientError
from kombu.transport import SQS
from kombu.transport.SQS.exceptions import InvalidQueueException

from cis_tasks.broker import calls
from cis_tasks.broker.flush import JobQueue
from cis_tasks.broker.lean import lean_sqs
from cis_tasks.broker.polling import is_gone
from cis_tasks.broker.sequence import AFTER_COMMAND

logger = logging.getLogger(__name__)

DEFAULT_VISIBILITY_S = 30  # SQS's own, where a queue does not say
CONNECT_TIMEOUT_S = 5
SYSTEM_ATTRIBUTES = {"MessageGroupId", "SentTimestamp"}  # see `handing_over`, `deliveries`
FIFO = ".fifo"  # ends the URL of every FIFO queue
QUICK_TIMEOUT_S = 5  # of calls that must not outlast a lease


class Predefined(SQS.Channel):
    """Mixin of the channel: what is known of its job queues."""

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._job_queues: dict[str, JobQueue] = {}
        self._visibility_asked: set[str] = set()
        self._job_clients: dict[tuple[str, int], Any] = {}
        super().__init__(connection, **kwargs)

    @property
    def predefined_queues(self) -> dict[str, Any]:
        """The job queues by their names in Celery.

        They are the option ``predefined_queues``; where that is not given, the durable queues
        that this connection has declared, found or made under their own names.
        """
        return self._given or getattr(self.connection, "declared_queues", {})

    @property
    def _given(self) -> dict[str, Any]:
        return self.transport_options.get("predefined_queues") or {}

    def _validate_predifined_queues(self) -> None:
        """A FIFO queue may have any name in Celery; kombu wants it to end with .fifo as well."""
        for name, queue in self._given.items():
            if name.endswith(FIFO) and not queue["url"].endswith(FIFO):
                raise InvalidQueueException(f"{name} is not a FIFO queue: {queue['url']}")

    def _update_queue_cache(self, queue_name_prefix: str) -> None:  # noqa: ARG002
        """Know those given; kombu would list all queues of the account to know the others."""
        self._queue_cache.update({name: queue["url"] for name, queue in self._given.items()})

    def queue_declare(self, queue: str | None = None, passive: bool = False, **options: Any) -> Any:
        """Declare a job queue, which is found or, unless job queues are predefined, made."""
        if queue and not passive and not self._given:
            self._new_queue(queue)
        return super().queue_declare(queue, passive, **options)

    def _new_queue(self, queue: str, **options: Any) -> Any:
        known = self.predefined_queues.get(queue)
        if known is None and not self._given:
            known = {"url": self._find_or_make(self.canonical_queue_name(queue))}
            self.connection.declared_queues[queue] = known
        if known is None:
            return super()._new_queue(queue, **options)  # raises as kombu does
        self._queue_cache[queue] = known["url"]
        return known["url"]

    def _find_or_make(self, name: str) -> str:
        try:
            return str(self.sqs().get_queue_url(QueueName=name)["QueueUrl"])
        except ClientError as error:
            if not is_gone(error):
                raise
        options = self.transport_options
        attributes = {"FifoQueue": "true"} if name.endswith(FIFO) else {}
        if visibility_s := options.get("visibility_timeout"):
            attributes["VisibilityTimeout"] = str(visibility_s)
        attributes.update(options.get("sqs-creation-attributes") or {})
        answer = self.sqs().create_queue(
            QueueName=name, Attributes=attributes, tags=options.get("queue_tags") or {}
        )
        return str(answer["QueueUrl"])

    def _is_job_queue(self, name: str) -> bool:
        return name in self.predefined_queues

    def _job_queue(self, name: str) -> JobQueue:
        """A job queue with its visibility timeout, as given or as SQS says."""
        queue = self._job_queues.get(name)
        if queue is None:
            url, client = self._new_queue(name), self._job_client(name, QUICK_TIMEOUT_S)
            given = self.predefined_queues[name].get("visibility_timeout")
            given = given or self.transport_options.get("visibility_timeout")
            visibility_s = int(given) if given else _visibility_s(client, url)
            if given or not visibility_s:
                self._visibility_asked.add(name)  # so that it holds from receipt on
            queue = JobQueue(name, url, client, visibility_s or DEFAULT_VISIBILITY_S)
            self._job_queues[name] = queue
        return queue

    def _receive_params(self, queue: str, url: str, count: int, wait_s: int) -> dict[str, Any]:
        """Arguments of ReceiveMessage."""
        names = {name: value for name, value in self.get_message_attributes.items() if value}
        given = names.get("MessageAttributeNames", ())
        if not {"All", "ALL", ".*"} & set(given):
            names["MessageAttributeNames"] = [*given, AFTER_COMMAND]
        system = set(names.get("MessageSystemAttributeNames", ()))
        if not system & {"All", "ALL"}:
            names["MessageSystemAttributeNames"] = sorted(system | SYSTEM_ATTRIBUTES)
        if queue in self._visibility_asked:
            names["VisibilityTimeout"] = self._job_queues[queue].visibility_s
        return {
            "QueueUrl": url,
            "MaxNumberOfMessages": count,
            "WaitTimeSeconds": wait_s,
            **names,
        }

    def _job_client(self, queue: str, timeout_s: int) -> Any:
        """A client whose calls fail soon and are repeated by whoever makes them."""
        if not self._is_job_queue(queue) or self.transport_options.get("sts_role_arn"):
            return self.sqs(queue=queue)
        client = self._job_clients.get((queue, timeout_s))
        if client is None:
            given = self.predefined_queues[queue]
            client = self._new_boto_client(
                service="sqs",
                region=given.get("region", self.region),
                access_key_id=given.get("access_key_id", self.conninfo.userid),
                secret_access_key=given.get("secret_access_key", self.conninfo.password),
                config=Config(
                    connect_timeout=CONNECT_TIMEOUT_S,
                    read_timeout=timeout_s,
                    retries={"total_max_attempts": 1},
                ),
            )
            client = self._job_clients[queue, timeout_s] = lean_sqs(client, patient=False)
        return client

    def _new_boto_client(self, *args: Any, **kwargs: Any) -> Any:
        return calls.watch(super()._new_boto_client(*args, **kwargs))


def _visibility_s(client: Any, url: str) -> int:
    """A queue's visibility timeout; 0 where we may not ask."""
    try:
        answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in {"AccessDenied", "403"}:
            raise
        logger.warning("May not read the visibility timeout of %s: %s", url, error)
        return 0
    return int(answer.get("Attributes", {}).get("VisibilityTimeout", 0))
