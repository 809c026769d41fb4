"""Somebody who listens to an SNS topic."""

from __future__ import annotations

import json
from typing import Any

import boto3


class Subscriber:
    """A queue that is subscribed to a topic, with an attribute filter if wanted."""

    def __init__(
        self,
        topic: str,
        label: str,
        policy: dict[str, list[Any]] | None = None,
        scope: str = "MessageAttributes",
    ) -> None:
        self.sqs, sns = boto3.client("sqs"), boto3.client("sns")
        self.url = self.sqs.create_queue(QueueName=f"{topic.rpartition(':')[2]}-{label}")[
            "QueueUrl"
        ]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        attributes = {"RawMessageDelivery": "true"}
        if policy:
            attributes |= {"FilterPolicy": json.dumps(policy), "FilterPolicyScope": scope}
        sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=found["Attributes"]["QueueArn"],
            Attributes=attributes,
        )
        self.heard: list[dict[str, Any]] = []

    def hear(self) -> list[dict[str, Any]]:
        got = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10)
        for message in got.get("Messages", []):
            self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
            self.heard.append(json.loads(message["Body"]))
        return self.heard
