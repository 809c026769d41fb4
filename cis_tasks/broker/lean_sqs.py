"""Sends, receives and settles for a fifth of what boto3 computes on each call.

A worker's share of a small job is mostly boto3's: validating, signing and parsing cost more than
the network. `LeanSQS` is boto3's client, except that the calls of the way of a message go out
through libcurl, once boto3 has shown where SQS is. Errors are those of boto3.
"""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pycurl
from botocore.exceptions import (
    BotoCoreError,
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from cis_tasks.broker import calls
from cis_tasks.lean_http import Line, Reply, Request, Signer

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest

TARGET = "AmazonSQS"
TRANSIENT = {429, 500, 502, 503, 504}
FIXED = {"content-type": "application/x-amz-json-1.0", "x-amzn-query-mode": "true"}


class LeanSQS:
    """A client of SQS that does the frequent things itself; safe for threads."""

    def __init__(self, client: Any, timeout_s: int, *, patient: bool = False) -> None:
        """Wrap a client; nothing is asked of SQS.

        Args:
            client: boto3's.
            timeout_s: how long a call may take.
            patient: whether boto3 is to try again, as often as its settings say, what had no
                answer or one that blames the server.
        """
        self._client = client
        self._timeout_s = timeout_s
        self._patient = patient
        # botocore has no public way to what a client signs with.
        credentials = client._request_signer._credentials  # noqa: SLF001
        region = client.meta.region_name
        self._signer = Signer(credentials, region, "sqs") if credentials else None
        self._own = threading.local()
        self._url = ""
        client.meta.events.register("before-send.sqs", self._note)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def receive_message(self, **asked: Any) -> Any:
        """As boto3's."""
        answer = self._call("ReceiveMessage", asked)
        if answer is None:
            return self._client.receive_message(**asked)
        for message in answer.get("Messages", ()):
            for attribute in message.get("MessageAttributes", {}).values():
                if "BinaryValue" in attribute:
                    attribute["BinaryValue"] = b64decode(attribute["BinaryValue"])
        return answer

    def send_message(self, **asked: Any) -> Any:
        """As boto3's."""
        answer = self._call("SendMessage", asked)
        return self._client.send_message(**asked) if answer is None else answer

    def send_message_batch(self, **asked: Any) -> Any:
        """As boto3's."""
        answer = self._call("SendMessageBatch", asked)
        return self._client.send_message_batch(**asked) if answer is None else answer

    def delete_message_batch(self, **asked: Any) -> Any:
        """As boto3's."""
        answer = self._call("DeleteMessageBatch", asked)
        return self._client.delete_message_batch(**asked) if answer is None else answer

    def change_message_visibility_batch(self, **asked: Any) -> Any:
        """As boto3's."""
        answer = self._call("ChangeMessageVisibilityBatch", asked)
        return self._client.change_message_visibility_batch(**asked) if answer is None else answer

    def _call(self, operation: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """SQS's answer; None where boto3 has to ask: how is not known yet, or it is to try again.

        Raises:
            ClientError: SQS refuses.
            BotoCoreError: there is no whole answer.
        """
        if not self._url or self._signer is None:
            return None
        try:
            body = json.dumps(asked).encode()
        except TypeError:  # bytes, in an attribute
            return None
        headers = {**FIXED, "x-amz-target": f"{TARGET}.{operation}"}
        signed = self._signer.sign(Request("POST", self._url, "", headers, body))
        if signed is None:
            raise NoCredentialsError
        calls.count("sqs", operation)
        try:
            reply = self._line().send("POST", self._url, signed, body)
        except pycurl.error as error:
            calls.count_failure("sqs", operation)
            if self._patient:
                return None
            raise self._lost(error) from error
        if reply.status != 200:
            calls.count_failure("sqs", operation)
            if self._patient and reply.status in TRANSIENT:
                return None
            raise self._refusal(operation, reply)
        answer: dict[str, Any] = json.loads(reply.body or b"{}")
        return answer

    def _line(self) -> Line:
        """This thread's connection."""
        line: Line | None = getattr(self._own, "line", None)
        if line is None:
            line = self._own.line = Line(self._timeout_s)
        return line

    def _lost(self, error: pycurl.error) -> BotoCoreError:
        code = error.args[0]
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return ReadTimeoutError(endpoint_url=self._url, error=error)
        if code in {pycurl.E_COULDNT_CONNECT, pycurl.E_COULDNT_RESOLVE_HOST}:
            return EndpointConnectionError(endpoint_url=self._url, error=error)
        return ConnectionClosedError(endpoint_url=self._url, error=error)

    def _refusal(self, operation: str, reply: Reply) -> Exception:
        """The error of boto3 for it.

        Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html
        """
        try:
            told = json.loads(reply.body)
        except ValueError:
            told = {}
        told = told if isinstance(told, dict) else {}
        code = reply.headers.get("x-amzn-query-error", "").partition(";")[0]
        code = code or str(told.get("__type", reply.status)).rpartition("#")[2]
        error = {"Code": code, "Message": str(told.get("message") or told.get("Message") or "")}
        parsed = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": reply.status}}
        refusal: Exception = self._client.exceptions.from_code(code)(parsed, operation)
        return refusal

    def _note(self, request: AWSPreparedRequest, **_: object) -> None:
        self._url = request.url
