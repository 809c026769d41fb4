"""Notes every call to AWS of a process that has this folder on its path, and of its children.

One line of JSON per call goes to the file ``CIS_RECORD_AWS_CALLS``: service, operation, and the
parameters that say what it is about. `support.permissions` reads it.
"""

from __future__ import annotations

import json
import os
from typing import Any

FILE = os.environ.get("CIS_RECORD_AWS_CALLS")


def note(service: str, operation: str, parameters: dict[str, Any]) -> None:
    """Write one call down."""
    about: dict[str, Any] = {n: v for n, v in parameters.items() if isinstance(v, str)}
    about.pop("MessageBody", None)
    about["given"] = sorted(parameters)
    if operation == "CreateOrUpdateTags":
        about["AutoScalingGroupName"] = parameters["Tags"][0]["ResourceId"]
    told = [{"service": service, "operation": operation, **about}]
    if operation == "DeleteObjects":
        told = [{**told[0], **one} for one in parameters["Delete"]["Objects"]]
    with open(str(FILE), "a") as file:  # noqa: PTH123
        file.writelines(json.dumps(one) + "\n" for one in told)


if FILE:
    from botocore import signers
    from botocore.client import BaseClient

    from cis_tasks.broker.lean_sqs import LeanSQS
    from cis_tasks.lean_s3 import OPERATIONS, LeanS3

    _call, _send, _ask = BaseClient._make_api_call, LeanS3._send, LeanSQS._call

    def _noted(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        note(self.meta.service_model.service_name, operation, parameters)
        return _call(self, operation, parameters)

    def _sent(self: Any, method: str, asked: dict[str, Any], body: bytes) -> Any:
        note("s3", OPERATIONS[method], asked)
        return _send(self, method, asked, body)

    def _asked(self: Any, operation: str, asked: dict[str, Any]) -> Any:
        note("sqs", operation, asked)
        return _ask(self, operation, asked)

    # What is signed for others to do is done in the signer's name.
    _post, _link = signers.generate_presigned_post, signers.generate_presigned_url

    def _posted(self: Any, Bucket: str, Key: str, **asked: Any) -> Any:
        note("s3", "PutObject", {"Bucket": Bucket, "Key": Key})
        return _post(self, Bucket, Key, **asked)

    def _linked(self: Any, ClientMethod: str, Params: Any = None, **asked: Any) -> Any:
        operation = self.meta.method_to_api_mapping[ClientMethod]
        note(self.meta.service_model.service_name, operation, Params)
        return _link(self, ClientMethod, Params, **asked)

    signers.generate_presigned_post, signers.generate_presigned_url = _posted, _linked
    BaseClient._make_api_call = _noted
    LeanS3._send = _sent  # type: ignore[method-assign]
    LeanSQS._call = _asked  # type: ignore[method-assign]
