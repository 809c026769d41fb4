"""HTTP to AWS for a tenth of what boto3 computes: signatures, and libcurl's kept connections."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pycurl
from botocore.httpsession import get_cert_path

if TYPE_CHECKING:
    from botocore.credentials import Credentials

MAX_READ_BYTES = 16 << 20  # they are kept in memory
EMPTY = hashlib.sha256(b"").hexdigest()
CONNECT_S, STALLED_S = 10, 60


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

    def __init__(self, timeout_s: int = 0) -> None:
        """Open nothing yet.

        Args:
            timeout_s: how long a call may take; 0 for as long as something comes.
        """
        self._curl = pycurl.Curl()
        fixed = {
            pycurl.NOSIGNAL: 1,
            pycurl.PATH_AS_IS: 1,  # a key may hold "/./"
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.CAINFO: os.environ.get("AWS_CA_BUNDLE") or get_cert_path(verify=True),
            pycurl.CONNECTTIMEOUT: CONNECT_S,
            pycurl.LOW_SPEED_LIMIT: 1,
            pycurl.LOW_SPEED_TIME: STALLED_S,
            pycurl.TIMEOUT: timeout_s,
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
        if method in {"PUT", "POST"}:
            curl.setopt(pycurl.POSTFIELDS, body)
            curl.setopt(pycurl.CUSTOMREQUEST, method)
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

    def __init__(self, credentials: Credentials, region: str, service: str = "s3") -> None:
        self._credentials = credentials
        self._region = region
        self._service = service
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
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
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
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (secret, day), key
        return key


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
