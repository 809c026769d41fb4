"""From bytes to a job in the queue: into S3, then published with others of the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.errors import PublishError, TransientError
from cis_tasks.jobs import Job, ObjectRef
from cis_tasks.join import REPLY_METADATA
from cis_tasks.pipelines import find
from cis_tasks.publish import MAX_BATCH, Published, publish_many
from cis_tasks.web.images import SentImage, image_pipeline

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_sqs.client import SQSClient

Returned = TypeVar("Returned")
SENDERS = 2  # SendMessageBatch calls at the same time
REQUEST_ID_METADATA = "cis-request"

log = structlog.get_logger(__name__)


class Threads:
    """The threads in which boto3 is called; as many as connections are kept."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="aws")

    async def call(self, function: Callable[..., Returned], *args: Any) -> Returned:
        """Call ``function`` in one of them."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def close(self) -> None:
        """End them, once what runs has ended."""
        self._pool.shutdown(cancel_futures=True)


class Intake:
    """Takes images in, and puts jobs into their queues."""

    def __init__(
        self,
        s3: S3Client,
        bucket: str,
        threads: Threads,
        publisher: Publisher,
    ) -> None:
        self._s3, self._bucket = s3, bucket
        self._threads, self._publisher = threads, publisher

    async def store(self, image: SentImage, request_id: str) -> Job:
        """Put an image into the input bucket: the job that it makes, not yet published.

        S3's own event asks for the very same job, so that the queue's deduplication swallows
        whichever message comes second.

        Raises:
            TransientError: S3 did not take it; nothing is left of it.
        """
        try:
            ref = await self._threads.call(self._put, image, request_id)
        except (ClientError, BotoCoreError) as error:
            log.warning("image_not_stored", key=image.key, error=str(error))
            await self._remove(image.key)
            raise TransientError(
                "s3_unavailable", "The image could not be stored.", "Try again."
            ) from error
        pipeline = image_pipeline()
        return Job(pipeline.name, pipeline.version, image.name, {pipeline.roles[0].name: ref}, {})

    async def publish(self, job: Job) -> None:
        """Put a job into its queue.

        Raises:
            PublishError: SQS did not take it.
        """
        await self._publisher.publish(job)
        log.info("job_published", job_id=job.id, pipeline=job.pipeline)

    async def withdraw(self, job: Job) -> None:
        """Remove the inputs of a job that is not to be, as far as S3 answers."""
        for ref in job.inputs.values():
            await self._remove(ref.key, ref.version if ref.versioned else "")

    def _put(self, image: SentImage, request_id: str) -> ObjectRef:
        answer = self._s3.put_object(
            Bucket=self._bucket,
            Key=image.key,
            Body=image.data,
            ContentType=image.media_type,
            # The address in case that S3's event is published before us.
            Metadata={
                REQUEST_ID_METADATA: request_id,
                REPLY_METADATA: self._publisher.reply_to(),
            },
        )
        version = answer.get("VersionId", "null")
        versioned = version != "null"
        etag = answer["ETag"].strip('"')
        return ObjectRef(self._bucket, image.key, version if versioned else etag, versioned)

    async def _remove(self, key: str, version: str = "") -> None:
        try:
            await self._threads.call(self._delete, key, version)
        except (ClientError, BotoCoreError) as error:
            log.warning("input_not_removed", key=key, error=str(error))

    def _delete(self, key: str, version: str) -> None:
        if version:
            self._s3.delete_object(Bucket=self._bucket, Key=key, VersionId=version)
        else:
            self._s3.delete_object(Bucket=self._bucket, Key=key)


class Publisher:
    """Merges publications of the same moment into batches, without a wait of its own.

    A job that comes alone is sent at once. While a call to SQS is under way, what comes waits
    for the next one: the more there is to do, the larger are the batches.
    """

    def __init__(
        self,
        sqs: SQSClient,
        queue_urls: Callable[[str], str],
        reply_to: Callable[[], str],
        threads: Threads,
    ) -> None:
        """Prepare.

        Args:
            sqs: client.
            queue_urls: gives the queue's URL of a pipeline.
            reply_to: gives the address of this process's reply queue.
            threads: where SQS is called.
        """
        self._sqs, self._queue_urls, self.reply_to = sqs, queue_urls, reply_to
        self._threads = threads
        self._waiting: list[tuple[Job, asyncio.Future[None]]] = []
        self._senders: set[asyncio.Task[None]] = set()
        self.sent = self.calls = 0

    async def publish(self, job: Job) -> None:
        """Put a job into its queue.

        Raises:
            PublishError: SQS did not take it.
        """
        find(job.pipeline)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, done))
        if len(self._senders) < SENDERS:
            sender = asyncio.create_task(self._send_all())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        await done

    async def _send_all(self) -> None:
        await asyncio.sleep(0)  # others may be about to publish in this very turn
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            self.calls += 1
            self.sent += len(batch)
            for (_, done), error in zip(batch, await self._send(batch), strict=True):
                if done.done():  # whoever waited has gone
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    async def _send(self, batch: list[tuple[Job, asyncio.Future[None]]]) -> list[Exception | None]:
        jobs = [job for job, _ in batch]
        try:
            published = await self._threads.call(self._call, jobs)
        except Exception as error:
            return [PublishError("publish_failed", str(error), "Try again.")] * len(batch)
        outcome = {item.job.id: item.error for item in published}
        return [outcome[job.id] for job in jobs]

    def _call(self, jobs: list[Job]) -> list[Published]:
        urls: Mapping[str, str] = {
            name: self._queue_urls(name) for name in {job.pipeline for job in jobs}
        }
        return publish_many(self._sqs, urls, jobs, reply_to=self.reply_to())
