"""boto3's clients with less to compute for each call, where pycurl is there, as in a worker."""

from __future__ import annotations

from functools import partial
from typing import Any

from cis_tasks.broker import calls


def lean_s3(client: Any) -> Any:
    """The client, whose calls are counted from now on; see `cis_tasks.lean_s3`."""
    calls.watch(client)
    try:
        from cis_tasks.lean_s3 import LeanS3  # noqa: PLC0415
    except ImportError:
        return client
    # botocore has no public way to what a client signs with
    credentials = client._request_signer._credentials  # noqa: SLF001
    return LeanS3(client, credentials, partial(calls.count, "s3")) if credentials else client


def lean_sqs(client: Any, *, patient: bool) -> Any:
    """The same of SQS; see `cis_tasks.broker.lean_sqs`.

    Args:
        client: boto3's; its read time-out is that of each call.
        patient: whether boto3 is to try again what failed, as its settings say.
    """
    calls.watch(client)
    try:
        from cis_tasks.broker.lean_sqs import LeanSQS  # noqa: PLC0415
    except ImportError:
        return client
    return LeanSQS(client, client.meta.config.read_timeout, patient=patient)
