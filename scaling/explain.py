"""Why a group has the capacity that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from scaling.alarms import State
from scaling.backlog import Reading
from scaling.group import Activity, Group, read_activities
from scaling.metrics import NAMESPACE
from scaling.policy import Decision, Policy
from scaling.reader import Clients, Reader, Watched, explained


@dataclass(frozen=True)
class AlarmNow:
    """An alarm of the group's.

    Attributes:
        name: its name.
        state: its state.
        reason: why, in CloudWatch's words.
        acts: whether it changes capacity.
    """

    name: str
    state: State
    reason: str
    acts: bool


@dataclass(frozen=True)
class Explanation:
    """Why capacity is what it is.

    Attributes:
        watched: queue and group.
        reading: what they look like.
        group: the group, with the reason of its last change by the publisher.
        alarms: those on the queue's and group's metrics.
        policies: names of the group's scaling policies.
        decision: what the publisher's policy says of this reading; None where alarms decide.
        activities: what the group did last.
    """

    watched: Watched
    reading: Reading
    group: Group
    alarms: tuple[AlarmNow, ...]
    policies: tuple[str, ...]
    decision: Decision | None
    activities: tuple[Activity, ...]

    @property
    def sentence(self) -> str:
        """It all in one."""
        r = self.reading
        have = f"{r.desired} desired, {r.in_service} in service, {r.pending} starting"
        if r.desired >= r.max and r.visible:
            return f"{have}: at its maximum of {r.max}, and {r.visible} jobs wait."
        if self.decision is not None:
            return f"{have}: {self.decision.reason}."
        acting = [a for a in self.alarms if a.acts and a.state is State.ALARM]
        if acting:
            return f"{have}: {acting[0].name} is on, {acting[0].reason}"
        if r.desired <= r.min:
            return f"{have}: at its minimum of {r.min}, and no alarm asks for more."
        return f"{have}: no alarm asks for a change."


def explain(watched: Watched, clients: Clients, policy: Policy | None) -> Explanation:
    """Look at everything that decides on a group's capacity.

    Raises:
        PermanentError: queue or group are missing, or may not be read.
        TransientError: AWS did not answer.
    """
    reading, group = Reader(watched, clients).read()
    try:
        policies = clients.autoscaling.describe_policies(AutoScalingGroupName=group.name)
        activities = read_activities(clients.autoscaling, group.name, 5)
        alarms = _alarms(clients.cloudwatch, group.name)
    except (ClientError, BotoCoreError) as error:
        raise explained(error, f"the group {group.name}") from error
    return Explanation(
        watched=watched,
        reading=reading,
        group=group,
        alarms=alarms,
        policies=tuple(p["PolicyName"] for p in policies.get("ScalingPolicies", [])),
        decision=policy.decide([reading]) if policy is not None else None,
        activities=tuple(activities[:5]),
    )


def _alarms(cloudwatch: Any, group: str) -> tuple[AlarmNow, ...]:
    found = []
    for page in cloudwatch.get_paginator("describe_alarms").paginate():
        for alarm in page.get("MetricAlarms", []):
            dimensions = {d["Name"]: d["Value"] for d in alarm.get("Dimensions", [])}
            if alarm.get("Namespace") == NAMESPACE and dimensions.get("Group") == group:
                found.append(_alarm(alarm))
    return tuple(sorted(found, key=lambda alarm: alarm.name))


def _alarm(alarm: Any) -> AlarmNow:
    return AlarmNow(
        name=alarm["AlarmName"],
        state=State(alarm.get("StateValue") or State.INSUFFICIENT_DATA),
        reason=alarm.get("StateReason", ""),
        acts=any(":scalingPolicy:" in action for action in alarm.get("AlarmActions", [])),
    )
