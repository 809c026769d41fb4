"""Reads and writes of small S3 objects for a tenth of what boto3 computes on each.

A job that classifies an image is five calls of S3, and with boto3 they cost more than the model.
`LeanS3` is boto3's client, except that ``get_object`` and ``put_object`` of small bodies go out
through libcurl once boto3 has shown where a bucket is. Whatever does not end as expected is done
again by boto3: its retries, redirects and errors stay as they are.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pycurl
from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from botocore.credentials import Credentials
    from mypy_boto3_s3.client import S3Client

MAX_WRITE_BYTES = 1 << 20  # with larger bodies boto3's share is small
MAX_READ_BYTES = 16 << 20  # they are kept in memory
ANSWERS = {404, 409, 412}  # of S3, which boto3 would not try again either
KNOWN = {"Bucket", "Key", "Body", "ContentType", "Metadata", "IfMatch", "IfNoneMatch", "VersionId"}
UNRESERVED = "/-_.~"
OPERATIONS = {"GET": "GetObject", "PUT": "PutObject"}
EMPTY = hashlib.sha256(b"").hexdigest()
CONNECT_S, STALLED_S = 10, 60


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


@dataclass(frozen=True)
class Reply:
    """An HTTP reply.

    Attributes:
        status: of HTTP.
        headers: with names in lower case.
        body: all of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Line:
    """One thread's connections, kept open."""

    def __init__(self) -> None:
        self._curl = pycurl.Curl()
        fixed = {
            pycurl.NOSIGNAL: 1,
            pycurl.PATH_AS_IS: 1,  # a key may hold "/./"
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.CAINFO: os.environ.get("AWS_CA_BUNDLE") or get_cert_path(verify=True),
            pycurl.CONNECTTIMEOUT: CONNECT_S,
            pycurl.LOW_SPEED_LIMIT: 1,
            pycurl.LOW_SPEED_TIME: STALLED_S,
        }
        for option, value in fixed.items():
            self._curl.setopt(option, value)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Send a request and read its reply.

        Raises:
            pycurl.error: there is no whole reply, or it is larger than `MAX_READ_BYTES`.
        """
        lines: list[bytes] = []
        parts: list[bytes] = []
        size = 0

        def take(part: bytes) -> int | None:
            nonlocal size
            size += len(part)
            if size > MAX_READ_BYTES:
                return 0  # which ends it
            parts.append(part)
            return None

        curl = self._curl
        curl.setopt(pycurl.URL, url)
        if method == "PUT":
            curl.setopt(pycurl.POSTFIELDS, body)
            curl.setopt(pycurl.CUSTOMREQUEST, "PUT")
        else:
            curl.setopt(pycurl.HTTPGET, 1)
            curl.unsetopt(pycurl.CUSTOMREQUEST)
        given = [f"{name}: {value}" for name, value in headers.items()]
        curl.setopt(pycurl.HTTPHEADER, [*given, *_silenced(headers)])
        curl.setopt(pycurl.HEADERFUNCTION, lines.append)
        curl.setopt(pycurl.MAXFILESIZE, MAX_READ_BYTES)
        curl.setopt(pycurl.WRITEFUNCTION, take)
        curl.perform()
        return Reply(curl.getinfo(pycurl.RESPONSE_CODE), _parsed(lines), b"".join(parts))


@dataclass(frozen=True)
class Request:
    """What is to be signed.

    Attributes:
        method: of HTTP.
        url: without the query.
        query: canonical: sorted and quoted.
        headers: with names in lower case.
        body: all of it.
    """

    method: str
    url: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class Signer:
    """Signs requests with AWS Signature Version 4.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """

    def __init__(self, credentials: Credentials, region: str) -> None:
        self._credentials = credentials
        self._region = region
        self._key: tuple[tuple[str, str], bytes] = (("", ""), b"")

    def sign(self, request: Request) -> dict[str, str] | None:
        """All headers of the request; None where there are no credentials to sign with."""
        frozen = self._credentials.get_frozen_credentials()
        if not frozen.access_key or not frozen.secret_key:
            return None
        now = datetime.now(UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        parts = urlsplit(request.url)
        hashed = hashlib.sha256(request.body).hexdigest() if request.body else EMPTY
        signed = {
            **request.headers,
            "host": parts.netloc,
            "x-amz-content-sha256": hashed,
            "x-amz-date": stamp,
        }
        if frozen.token:
            signed["x-amz-security-token"] = frozen.token
        names = sorted(signed)
        listed = ";".join(names)
        lines = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in names)
        canonical = "\n".join((request.method, parts.path, request.query, lines, listed, hashed))
        scope = f"{day}/{self._region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        signature = hmac.digest(self._signing_key(frozen.secret_key, day), text.encode(), "sha256")
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={frozen.access_key}/{scope}, "
            f"SignedHeaders={listed}, Signature={signature.hex()}"
        )
        return signed

    def _signing_key(self, secret: str, day: str) -> bytes:
        made_for, key = self._key
        if made_for != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (secret, day), key
        return key


def _headers(asked: Mapping[str, Any]) -> dict[str, str]:
    names = {"ContentType": "content-type", "IfMatch": "if-match", "IfNoneMatch": "if-none-match"}
    given = {names[name]: str(value) for name, value in asked.items() if name in names}
    metadata = asked.get("Metadata") or {}
    return {**given, **{f"x-amz-meta-{name.lower()}": value for name, value in metadata.items()}}


def _is_plain(value: str) -> bool:
    """Whether a header's value needs no encoding, and is one line."""
    return value.isascii() and value.isprintable()


def _silenced(headers: Mapping[str, str]) -> list[str]:
    """Headers that libcurl would add, and that nobody has asked for."""
    own = ("accept", "content-type", "expect")
    return [f"{name}:" for name in own if name not in headers]


def _parsed(lines: list[bytes]) -> dict[str, str]:
    """Headers of the last reply: one before it may have been a mere 100."""
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            found[name.lower()] = value.strip()
        elif line.startswith(b"HTTP/"):
            found.clear()
    return found


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
