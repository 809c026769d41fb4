"""What the publisher tells the scaling topic: its decisions, and what alarms did.

The form is that of docs/notifications.schema.json, of which `cis_tasks.notifications` has the
model; it needs pydantic, which Lambda has not, so that here it is written by hand. A test holds
the two equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import boto3
from botocore.config import Config

from scaling.group import Group
from scaling.policy import Decision

CONFIG = Config(
    connect_timeout=2,
    read_timeout=5,  # the next reading waits for it
    retries={"total_max_attempts": 2},
    user_agent_extra="cis-tasks-scaling",
)
SCHEMA_VERSION = 1
ALARM_CHANGED = "CloudWatch Alarm State Change"
"""EventBridge's ``detail-type`` of what `AlarmChanged.of` reads."""


class Item(Protocol):
    """One message."""

    def document(self) -> dict[str, Any]:
        """What a subscriber gets, as JSON."""
        ...

    def attributes(self) -> dict[str, str]:
        """What subscriptions can filter by."""
        ...


@dataclass(frozen=True)
class Decided:
    """A policy of ours set a group's capacity.

    Attributes:
        at: when.
        pipeline: whose group.
        group: its name.
        policy: who decided.
        before: instances that the group wanted until then.
        desired: instances that it wants now.
        reason: why, in a sentence.
    """

    at: datetime
    pipeline: str
    group: str
    policy: str
    before: int
    desired: int
    reason: str

    @classmethod
    def of(cls, pipeline: str, group: Group, decision: Decision) -> Decided:
        """The news of a decision on a group as it was."""
        return cls(
            at=datetime.fromtimestamp(decision.time_s, UTC),
            pipeline=pipeline,
            group=group.name,
            policy=decision.policy,
            before=group.desired,
            desired=decision.desired,
            reason=decision.reason,
        )

    def document(self) -> dict[str, Any]:
        """What a subscriber gets, as JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "capacity_set",
            **vars(self),
            "at": _utc(self.at),
        }

    def attributes(self) -> dict[str, str]:
        """What subscriptions can filter by."""
        return {
            "kind": "capacity_set",
            "pipeline": self.pipeline,
            "group": self.group,
            "direction": "out" if self.desired > self.before else "in",
        }


@dataclass(frozen=True)
class AlarmChanged:
    """A CloudWatch alarm changed its state.

    Attributes:
        at: when.
        alarm: its name.
        state: what it is now: ``OK``, ``ALARM`` or ``INSUFFICIENT_DATA``.
        before: what it was.
        reason: why, in CloudWatch's words.
        description: what it means and what to do.
        pipeline: which it is about; None where it is about all.
    """

    at: datetime
    alarm: str
    state: str
    before: str
    reason: str
    description: str
    pipeline: str | None

    @classmethod
    def of(cls, event: Mapping[str, Any], groups: Mapping[str, str]) -> AlarmChanged:
        """Read EventBridge's event.

        Args:
            event: whose ``detail-type`` is `ALARM_CHANGED`.
            groups: pipeline → name of its group, which begins the names of its alarms.

        Raises:
            KeyError: it is not of the form that AWS documents.

        Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-and-eventbridge.html
        """
        detail = event["detail"]
        name, state = detail["alarmName"], detail["state"]
        about = (p for p, group in groups.items() if f"{group}-" in f"{name}-")
        return cls(
            at=datetime.strptime(state["timestamp"], "%Y-%m-%dT%H:%M:%S.%f%z"),
            alarm=name,
            state=state["value"],
            before=detail.get("previousState", {}).get("value", "INSUFFICIENT_DATA"),
            reason=state.get("reason", ""),
            description=detail.get("configuration", {}).get("description", ""),
            pipeline=next(about, None),
        )

    def document(self) -> dict[str, Any]:
        """What a subscriber gets, as JSON."""
        told = {name: value for name, value in vars(self).items() if value is not None}
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "alarm_changed",
            **told,
            "at": _utc(self.at),
        }

    def attributes(self) -> dict[str, str]:
        """What subscriptions can filter by."""
        found = {
            "kind": "alarm_changed",
            "pipeline": self.pipeline,
            "alarm": self.alarm,
            "state": self.state,
        }
        return {name: value for name, value in found.items() if value}


class News:
    """A topic that is told.

    Args:
        sns: client.
        topic: ARN.
    """

    def __init__(self, sns: Any, topic: str) -> None:
        self._sns, self._topic = sns, topic

    @classmethod
    def to(cls, topic: str) -> News:
        """The topic of this ARN, by boto3's standard chain."""
        return cls(boto3.client("sns", config=CONFIG), topic)

    def tell(self, item: Item) -> None:
        """Publish.

        Raises:
            botocore.exceptions.ClientError: SNS refuses.
            botocore.exceptions.BotoCoreError: SNS does not answer.
        """
        self._sns.publish(
            TopicArn=self._topic,
            Message=json.dumps(item.document()),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in item.attributes().items()
            },
        )


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
