"""Every form in which S3's notifications arrive, as one: `Upload`.

S3 itself, EventBridge, and either of them wrapped in SNS, SQS, or both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus


@dataclass(frozen=True)
class Upload:
    """An object that was created.

    Attributes:
        bucket: bucket name.
        key: object key, decoded.
        size: bytes, or None where the event does not say.
    """

    bucket: str
    key: str
    size: int | None = None


@dataclass(frozen=True)
class Skipped:
    """A record that asks for nothing.

    Attributes:
        reason: why, in words.
        malformed: whether it could not be read at all.
    """

    reason: str
    malformed: bool = False


def uploads(event: object) -> Iterator[Upload | Skipped]:
    """Every record of a Lambda event; what cannot be read is skipped with its reason."""
    if not isinstance(event, Mapping):
        yield Skipped(f"not an event: {_excerpt(event)}", malformed=True)
    elif event.get("Event") == "s3:TestEvent":
        yield Skipped("s3:TestEvent, which S3 sends when a notification is set up")
    elif isinstance(event.get("Records"), list):
        for record in event["Records"]:
            yield from _record(record)
    elif event.get("source") == "aws.s3":
        yield _from_eventbridge(event)
    elif event.get("Type") == "Notification" and "Message" in event:
        yield from _wrapped(event["Message"])  # SNS's envelope, as SQS carries it
    else:
        yield Skipped(f"not an S3 event: {_excerpt(event)}", malformed=True)


def _record(record: object) -> Iterator[Upload | Skipped]:
    if not isinstance(record, Mapping):
        yield Skipped(f"not a record: {_excerpt(record)}", malformed=True)
    elif "s3" in record:
        yield _from_s3(record)
    elif isinstance(record.get("Sns"), Mapping):
        yield from _wrapped(record["Sns"].get("Message"))
    elif "body" in record:
        yield from _wrapped(record["body"])
    else:
        yield Skipped(f"not an S3, SNS or SQS record: {_excerpt(record)}", malformed=True)


def _wrapped(text: object) -> Iterator[Upload | Skipped]:
    try:
        inner = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        inner = None
    yield from uploads(inner)


def _from_s3(record: Mapping[str, Any]) -> Upload | Skipped:
    """A record of S3's own: the key is URL-encoded, with ``+`` for a space.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """
    name = str(record.get("eventName", ""))
    if name and "ObjectCreated" not in name:
        return Skipped(f"{name} creates no object")
    try:
        s3 = record["s3"]
        key = unquote_plus(s3["object"]["key"], errors="strict")
        return _upload(s3["bucket"]["name"], key, s3["object"].get("size"))
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        return Skipped(f"malformed S3 record ({error!r}): {_excerpt(record)}", malformed=True)


def _from_eventbridge(event: Mapping[str, Any]) -> Upload | Skipped:
    """An event of EventBridge: the key is not encoded.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
    """
    kind = str(event.get("detail-type", ""))
    if kind != "Object Created":
        return Skipped(f"{kind} creates no object")
    try:
        item = event["detail"]["object"]
        return _upload(event["detail"]["bucket"]["name"], item["key"], item.get("size"))
    except (KeyError, TypeError, AttributeError) as error:
        return Skipped(f"malformed S3 event ({error!r}): {_excerpt(event)}", malformed=True)


def _upload(bucket: object, key: object, size: object) -> Upload:
    if not (isinstance(bucket, str) and bucket and isinstance(key, str) and key):
        raise TypeError("bucket and key must be text")
    return Upload(bucket, key, size if isinstance(size, int) else None)


def _excerpt(value: object) -> str:
    return repr(value)[:200]
