"""How long jobs run, learned from the manifests that they leave."""

from __future__ import annotations

import json
import statistics
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

LEARN_FROM = 50
"""Newest manifests that count."""

LEARN_EVERY_S = 300.0
PAGES = 20
"""Most listings of a thousand keys each time: a bucket of millions is not read through."""


class ServiceTimes:
    """The mean service time of one pipeline, read anew every few minutes.

    Args:
        s3: a client.
        bucket: the output bucket.
        pipeline: whose jobs.
    """

    def __init__(self, s3: S3Client, bucket: str, pipeline: str) -> None:
        self._s3, self._bucket, self._prefix = s3, bucket, f"{pipeline}/"
        self._known: dict[str, float | None] = {}
        self._mean_s: float | None = None
        self._read_at_s = -LEARN_EVERY_S

    def mean_s(self) -> float | None:
        """Mean of the newest jobs' service times; None until one has ended.

        Raises:
            botocore.exceptions.ClientError: the bucket may not be read.
        """
        now_s = time.monotonic()
        if now_s - self._read_at_s >= LEARN_EVERY_S:
            self._mean_s = self._learn()
            if self._mean_s is not None:  # until then each reading asks
                self._read_at_s = now_s
        return self._mean_s

    def _learn(self) -> float | None:
        newest = self._newest()
        self._known = {key: self._seconds(key) for key in newest}
        ran = [seconds for seconds in self._known.values() if seconds is not None]
        return statistics.fmean(ran) if ran else None

    def _newest(self) -> list[str]:
        found: list[tuple[datetime, str]] = []
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix, PaginationConfig={"MaxItems": PAGES * 1000}
        )
        for page in pages:
            found += [
                (item["LastModified"], item["Key"])
                for item in page.get("Contents", [])
                if item["Key"].endswith("/manifest.json")
            ]
        return [key for _, key in sorted(found, reverse=True)[:LEARN_FROM]]

    def _seconds(self, key: str) -> float | None:
        """A job's service time; of one that failed None, as failing is quick."""
        if key in self._known:
            return self._known[key]
        body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return service_s(json.loads(body))


def service_s(manifest: Any) -> float | None:
    """The seconds that a job's manifest tells; None of a job that failed or of no manifest."""
    try:
        if manifest["status"] != "succeeded":
            return None
        started, finished = (
            datetime.fromisoformat(manifest[name]) for name in ("started_at", "finished_at")
        )
    except (KeyError, TypeError, ValueError):
        return None
    seconds = (finished - started).total_seconds()
    return seconds if seconds > 0 else None
