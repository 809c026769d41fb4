"""Reads and writes of small S3 objects for a tenth of what boto3 computes on each.

A job that classifies an image is five calls of S3, and with boto3 they cost more than the model.
`LeanS3` is boto3's client, except that ``get_object`` and ``put_object`` of small bodies go out
through libcurl once boto3 has shown where a bucket is. Whatever does not end as expected is done
again by boto3: its retries, redirects and errors stay as they are.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pycurl
from botocore.exceptions import ClientError

from cis_tasks.lean_http import Line, Reply, Request, Signer

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from botocore.credentials import Credentials
    from mypy_boto3_s3.client import S3Client

MAX_WRITE_BYTES = 1 << 20  # with larger bodies boto3's share is small
ANSWERS = {404, 409, 412}  # of S3, which boto3 would not try again either
KNOWN = {"Bucket", "Key", "Body", "ContentType", "Metadata", "IfMatch", "IfNoneMatch", "VersionId"}
UNRESERVED = "/-_.~"
OPERATIONS = {"GET": "GetObject", "PUT": "PutObject"}


class LeanS3:
    """A client of S3 that does the frequent things itself; safe for threads, not for forks."""

    def __init__(
        self,
        client: S3Client,
        credentials: Credentials,
        count: Callable[[str], object] = lambda _operation: None,
    ) -> None:
        """Wrap a client; nothing is asked of S3.

        Args:
            client: boto3's.
            credentials: those that it signs with.
            count: told the name of each operation that boto3 is not asked for.
        """
        self._client = client
        self._count = count
        self._signer = Signer(credentials, client.meta.region_name)
        self._own = threading.local()
        self._bases: dict[str, str] = {}
        client.meta.events.register("before-send.s3", self._note)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_object(self, **asked: Any) -> Any:
        """As boto3's; ``Body`` has ``read``, ``iter_chunks`` and ``close``."""
        reply = self._send("GET", asked, b"")
        if reply is None:
            return self._learning(asked).get_object(**asked)
        return {
            **_described(reply.headers),
            "Body": Body(reply.body),
            "ContentLength": len(reply.body),
            "LastModified": parsedate_to_datetime(reply.headers["last-modified"]),
        }

    def put_object(self, **asked: Any) -> Any:
        """As boto3's."""
        body = asked.get("Body", b"")
        small = isinstance(body, bytes) and len(body) <= MAX_WRITE_BYTES
        reply = self._send("PUT", asked, body) if small else None
        if reply is None:
            return self._learning(asked).put_object(**asked)
        return _described(reply.headers)

    def _send(self, method: str, asked: Mapping[str, Any], body: bytes) -> Reply | None:
        """S3's reply, or None where boto3 has to do it.

        Raises:
            ClientError: S3 says that the object is not there or not what it was to be.
        """
        base = self._bases.get(asked["Bucket"])
        if base is None or not asked.keys() <= KNOWN:
            return None
        url = base + quote(asked["Key"], safe=UNRESERVED)
        query = ""
        if "VersionId" in asked:
            query = f"versionId={quote(asked['VersionId'], safe='-_.~')}"
        signed = self._signer.sign(Request(method, url, query, _headers(asked), body))
        if signed is None or not all(map(_is_plain, signed.values())):
            return None
        self._count(OPERATIONS[method])
        try:
            reply = self._line().send(method, f"{url}?{query}" if query else url, signed, body)
        except pycurl.error:
            return None
        if reply.status in ANSWERS:
            raise _refusal(method, reply)
        return reply if reply.status == 200 else None

    def _line(self) -> Line:
        """This thread's connection."""
        line: Line | None = getattr(self._own, "line", None)
        if line is None:
            line = self._own.line = Line()
        return line

    def _learning(self, asked: Mapping[str, Any]) -> S3Client:
        """boto3's client, whose next request on this thread tells where the bucket is."""
        self._own.asked = (asked["Bucket"], asked["Key"])
        return self._client

    def _note(self, request: AWSPreparedRequest, **_: object) -> None:
        asked = getattr(self._own, "asked", None)
        if asked is None:
            return
        self._own.asked = None
        bucket, key = asked
        url, name = request.url.partition("?")[0], "/" + quote(key, safe=UNRESERVED)
        if url.endswith(name):
            self._bases[bucket] = url[: len(url) - len(name) + 1]


class Body:
    """What S3 sent of an object, as boto3 gives it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self) -> bytes:
        """All of it."""
        return self._content

    def iter_chunks(self, chunk_size: int = 1 << 16) -> Iterator[bytes]:
        """It in parts."""
        for start in range(0, len(self._content), chunk_size):
            yield self._content[start : start + chunk_size]

    def close(self) -> None:
        """Do nothing: the connection is free already."""


def _headers(asked: Mapping[str, Any]) -> dict[str, str]:
    names = {"ContentType": "content-type", "IfMatch": "if-match", "IfNoneMatch": "if-none-match"}
    given = {names[name]: str(value) for name, value in asked.items() if name in names}
    metadata = asked.get("Metadata") or {}
    return {**given, **{f"x-amz-meta-{name.lower()}": value for name, value in metadata.items()}}


def _is_plain(value: str) -> bool:
    """Whether a header's value needs no encoding, and is one line."""
    return value.isascii() and value.isprintable()


def _described(headers: Mapping[str, str]) -> dict[str, Any]:
    """What S3 says of an object beside its content."""
    prefix = "x-amz-meta-"
    metadata = {k.removeprefix(prefix): v for k, v in headers.items() if k.startswith(prefix)}
    version = headers.get("x-amz-version-id")
    told = {"VersionId": version} if version is not None else {}
    return {**told, "ETag": headers.get("etag", ""), "Metadata": metadata}


def _refusal(method: str, reply: Reply) -> ClientError:
    found = re.search(rb"<Code>([^<]*)</Code>", reply.body)
    code = found[1].decode(errors="replace") if found else str(reply.status)
    return ClientError(
        {
            "Error": {"Code": code, "Message": f"HTTP {reply.status}"},
            "ResponseMetadata": {  # type: ignore[typeddict-item]  # what of it is used
                "HTTPStatusCode": reply.status
            },
        },
        OPERATIONS[method],
    )
