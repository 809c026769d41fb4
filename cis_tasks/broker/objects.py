"""Small objects in one S3 bucket, written on conditions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import TypedDict

from botocore.exceptions import ClientError

from cis_tasks.broker import clients
from cis_tasks.broker.clients import Access

MAX_DELETE = 1000  # keys per DeleteObjects call, S3 limit
PARALLEL_READS = 16
NOT_FOUND = {"404", "NoSuchKey"}
LOST_RACE = {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED}


class Condition(TypedDict, total=False):
    """What a write requires of the object that it replaces, as boto3 names it."""

    IfMatch: str
    IfNoneMatch: str


class ConditionError(Exception):
    """The object was not written: it is not what the writer took it to be."""


@dataclass(frozen=True)
class Stored:
    """What an object holds.

    Attributes:
        body: its content; empty where only its head was asked for.
        etag: its version, for a later write that must not overwrite another one.
        metadata: its user metadata.
    """

    body: bytes
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listed:
    """An object's place in a listing.

    Attributes:
        key: its key.
        etag: its version.
        modified: when it was written.
    """

    key: str
    etag: str
    modified: datetime


@dataclass(frozen=True)
class Objects:
    """The objects of one bucket below one prefix; keys are what follows the prefix.

    Attributes:
        bucket: name of the bucket.
        prefix: what every key begins with in the bucket; nothing is put between.
        access: how to reach S3.
    """

    bucket: str
    prefix: str
    access: Access

    def get(self, key: str) -> Stored | None:
        """The object; None where there is none."""
        try:
            found = clients.s3(self.access).get_object(Bucket=self.bucket, Key=self.prefix + key)
        except ClientError as error:
            if _code(error) in NOT_FOUND:
                return None
            raise
        return Stored(found["Body"].read(), found["ETag"], found.get("Metadata", {}))

    def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Several objects at once, in the order of ``keys``."""
        if len(keys) < 2:
            return [self.get(key) for key in keys]
        with ThreadPoolExecutor(min(PARALLEL_READS, len(keys))) as readers:
            return list(readers.map(self.get, keys))

    def head(self, key: str) -> Stored | None:
        """The object without its content; None where there is none."""
        try:
            found = clients.s3(self.access).head_object(Bucket=self.bucket, Key=self.prefix + key)
        except ClientError as error:
            if _code(error) in NOT_FOUND:
                return None
            raise
        return Stored(b"", found["ETag"], found.get("Metadata", {}))

    def put(self, key: str, body: bytes, metadata: Mapping[str, str] | None = None) -> str:
        """Write an object, whatever is there.

        Returns:
            Its ETag.
        """
        written = clients.s3(self.access).put_object(
            Bucket=self.bucket, Key=self.prefix + key, Body=body, Metadata=dict(metadata or {})
        )
        return written["ETag"]

    def replace(
        self, key: str, body: bytes, etag: str | None, metadata: Mapping[str, str] | None = None
    ) -> str:
        """Write an object where it still is what the writer knows.

        Args:
            key: which.
            body: its new content.
            etag: the ETag that it must have; None where it must not exist.
            metadata: its new user metadata.

        Returns:
            Its new ETag.

        Raises:
            ConditionError: it is another one, or exists or is gone against expectation.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
        """
        condition: Condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        try:
            written = clients.s3(self.access).put_object(
                Bucket=self.bucket,
                Key=self.prefix + key,
                Body=body,
                Metadata=dict(metadata or {}),
                **condition,
            )
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in LOST_RACE and _code(error) != "NoSuchBucket":
                raise ConditionError(key) from error
            raise
        return written["ETag"]

    def list(self, prefix: str) -> Iterator[Listed]:
        """The objects whose keys begin with ``prefix``, in the order of their keys."""
        pages = clients.s3(self.access).get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(self.prefix)
                yield Listed(key, item["ETag"], item["LastModified"])

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over.

        Raises:
            OSError: S3 refused some of them; names the first.
        """
        wanted = list(keys)
        client = clients.s3(self.access)
        if len(wanted) == 1:
            client.delete_object(Bucket=self.bucket, Key=self.prefix + wanted[0])
            return
        for start in range(0, len(wanted), MAX_DELETE):
            part = wanted[start : start + MAX_DELETE]
            answer = client.delete_objects(
                Bucket=self.bucket,
                Delete={"Objects": [{"Key": self.prefix + key} for key in part], "Quiet": True},
            )
            for failure in answer.get("Errors", []):
                raise OSError(
                    f"S3 did not delete s3://{self.bucket}/{failure.get('Key')}: "
                    f"{failure.get('Code')} {failure.get('Message')}"
                )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
