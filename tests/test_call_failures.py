"""Calls to AWS that failed are counted, for whoever watches a process."""

from __future__ import annotations

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

from cis_tasks.broker import calls
from cis_tasks.local.cloud import Cloud


def test_calls_that_fail_are_counted_and_answers_that_were_asked_for_are_not(cloud: Cloud) -> None:
    calls.reset()
    s3, sqs = calls.watch(boto3.client("s3")), calls.watch(boto3.client("sqs"))
    with pytest.raises(ClientError):
        s3.get_object(Bucket=cloud.stack.output_bucket, Key="not there")
    s3.put_object(Bucket=cloud.stack.output_bucket, Key="k", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError):  # somebody was first
        s3.put_object(Bucket=cloud.stack.output_bucket, Key="k", Body=b"2", IfNoneMatch="*")
    assert calls.failed() == {}
    with pytest.raises(ClientError):
        sqs.receive_message(QueueUrl=f"{cloud.stack.queue_urls['spine']}-not-there")
    nowhere = calls.watch(
        boto3.client(
            "s3",
            endpoint_url="http://127.0.0.1:1",
            config=Config(retries={"total_max_attempts": 2}),
        )
    )
    with pytest.raises(EndpointConnectionError):
        nowhere.head_bucket(Bucket="b")
    assert calls.failed() == {"s3.HeadBucket": 2, "sqs.ReceiveMessage": 1}  # each attempt
