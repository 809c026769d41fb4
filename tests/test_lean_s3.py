"""The S3 client of workers: signed and answered like boto3's, and boto3 where it is in doubt."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

import cis_tasks.lean_s3 as lean
from cis_tasks.lean_http import Request, Signer
from cis_tasks.lean_s3 import LeanS3
from cis_tasks.local.cloud import Cloud

KEYS = ["plain.txt", "a b/ü?&#%+.txt", "dots/./../x", "-_.~!*'()=;:@,$", "雪/\u0301e"]


def client(cloud: Cloud, counted: list[str]) -> LeanS3:
    session = boto3.Session()
    return LeanS3(session.client("s3"), session.get_credentials(), counted.append)


@pytest.mark.parametrize("key", KEYS)
def test_objects_come_back_as_with_boto3(cloud_of_module: Cloud, key: str) -> None:
    counted: list[str] = []
    one, other = client(cloud_of_module, counted), boto3.client("s3")
    bucket = cloud_of_module.stack.output_bucket
    for body in (b"first", b"", b"\r\n" * 1000, os.urandom(300_000)):
        put = one.put_object(
            Bucket=bucket, Key=key, Body=body, ContentType="text/x", Metadata={"state": "one two"}
        )
        theirs = other.get_object(Bucket=bucket, Key=key)
        ours = one.get_object(Bucket=bucket, Key=key)
        assert ours["Body"].read() == theirs["Body"].read() == body
        assert theirs["ContentType"] == "text/x"
        for name in ("ETag", "LastModified", "Metadata", "VersionId", "ContentLength"):
            assert ours[name] == theirs[name]
        assert put["VersionId"] == theirs["VersionId"]
        assert put["ETag"] == theirs["ETag"]
    again = one.get_object(Bucket=bucket, Key=key, VersionId=put["VersionId"], IfMatch=put["ETag"])
    assert b"".join(again["Body"].iter_chunks(1000)) == body
    assert counted == ["PutObject", "GetObject"] * 4 + ["GetObject"] or counted[0] == "GetObject"


def test_what_is_not_there_or_another_is_told_as_by_boto3(cloud_of_module: Cloud) -> None:
    counted: list[str] = []
    one, other = client(cloud_of_module, counted), boto3.client("s3")
    bucket = cloud_of_module.stack.output_bucket
    one.put_object(Bucket=bucket, Key="there", Body=b"x")
    calls: list[dict[str, Any]] = [
        {"Key": "gone"},
        {"Key": "there", "IfMatch": '"another"'},
        {"Key": "there", "Body": b"y", "IfNoneMatch": "*"},
        {"Key": "there", "Body": b"y", "IfMatch": '"another"'},
    ]
    for asked in calls:
        told = []
        for one_client in (one, other):
            call = one_client.put_object if "Body" in asked else one_client.get_object
            with pytest.raises(ClientError) as caught:
                call(Bucket=bucket, **asked)
            answer = caught.value.response
            told.append((answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]))
        assert told[0] == told[1]
    assert len(counted) == len(calls)


def test_threads_share_it_and_none_gets_another_s_answer(cloud_of_module: Cloud) -> None:
    one = client(cloud_of_module, [])
    bucket = cloud_of_module.stack.output_bucket

    def there_and_back(number: int) -> bool:
        key, body = f"threads/{number}", str(number).encode() * 50
        one.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
        return bool(one.get_object(Bucket=bucket, Key=key)["Body"].read() == body)

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(there_and_back, range(200)))


header = st.text('abcdefghij 0123456789-_./"*', max_size=20).map(str.strip)


@given(
    st.sampled_from(["GET", "PUT"]),
    st.text(min_size=1, max_size=30),
    st.binary(max_size=50),
    st.dictionaries(st.sampled_from(["if-match", "content-type", "x-amz-meta-a"]), header),
    st.sampled_from([None, "a session's token/+="]),
)
def test_requests_are_signed_as_botocore_signs_them(
    method: str, key: str, body: bytes, headers: dict[str, str], token: str | None
) -> None:
    from urllib.parse import quote

    credentials = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", token)
    url = f"https://bucket.s3.eu-west-1.amazonaws.com/{quote(key, safe=lean.UNRESERVED)}"
    query = "versionId=a-b_c.d~1"
    ours = Signer(credentials, "eu-west-1").sign(Request(method, url, query, headers, body))
    assert ours is not None
    theirs = AWSRequest(method, f"{url}?{query}", headers, body)
    theirs.context["payload_signing_enabled"] = True
    when = datetime.strptime(ours["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda *_: when.replace(tzinfo=None))
        S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(theirs)
    assert ours["x-amz-date"] == theirs.headers["X-Amz-Date"]
    assert ours["authorization"] == theirs.headers["Authorization"]


class Moody(BaseHTTPRequestHandler):
    """An S3 that fails every call of libcurl, and every first one of boto3."""

    protocol_version = "HTTP/1.1"
    seen: list[str] = []  # noqa: RUF012  shared on purpose
    mood = 503

    def do_GET(self) -> None:
        curl = "PycURL" in self.headers.get("User-Agent", "")
        self.seen.append("lean" if curl else "boto3")
        if curl and self.mood == 0:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        status = self.mood if curl else 200
        body = b"slow down" if curl else b"content"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + (5 if self.mood == 200 and curl else 0)))
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 05:00:00 GMT")
        self.send_header("ETag", '"e"')
        self.end_headers()
        self.wfile.write(body)
        if curl:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("mood", [503, 500, 307, 403, 200, 0], ids=str)
def test_boto3_does_what_did_not_end_well(mood: int) -> None:
    """200 is an answer that breaks off, 0 none at all."""
    Moody.seen, Moody.mood = [], mood
    with ThreadingHTTPServer(("127.0.0.1", 0), Moody) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        session = boto3.Session("key", "secret", region_name="us-east-1")
        made = session.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{server.server_port}",
            config=Config(proxies={}, retries={"total_max_attempts": 1}),
        )
        one = LeanS3(made, session.get_credentials())
        assert one.get_object(Bucket="bucket", Key="k")["Body"].read() == b"content"
        assert one.get_object(Bucket="bucket", Key="k")["Body"].read() == b"content"
        server.shutdown()
    assert Moody.seen[:2] == ["boto3", "lean"]
    assert Moody.seen[-1] == "boto3"
