"""The Auto Scaling group: what it has, what it did, and what it should have."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from cis_tasks.errors import PermanentError

IN_SERVICE = "InService"
STARTING = frozenset(
    {
        "Pending",
        "Pending:Wait",
        "Pending:Proceed",
        "Warmed:Pending",
        "Warmed:Pending:Wait",
        "Warmed:Pending:Proceed",
    }
)
"""States of instances that will be in service; those of a warm pool pass through them, too."""

DECISION_TAG = "cis-scaling-decision"
"""Tag of the group that keeps the reason of its last change."""

TAG_LENGTH = 256  # most characters of a tag's value


@dataclass(frozen=True)
class Group:
    """A group at one moment.

    Attributes:
        name: its name.
        in_service: instances that take jobs.
        pending: instances that start.
        desired: how many it wants.
        min: its fewest.
        max: its most.
        decision: why it was last changed, as kept in its tag.
    """

    name: str
    in_service: int
    pending: int
    desired: int
    min: int
    max: int
    decision: str = ""


@dataclass(frozen=True)
class Activity:
    """Something that the group did.

    Attributes:
        description: what.
        cause: why, in AWS's words.
        status: ``Successful``, ``Failed``, …
        started: when it began.
        ended: when it ended; None while it goes on.
    """

    description: str
    cause: str
    status: str
    started: datetime
    ended: datetime | None

    @property
    def launch_s(self) -> float | None:
        """From launch to service, if it is a launch that succeeded."""
        if self.ended is None or self.status != "Successful" or "aunch" not in self.description:
            return None
        return (self.ended - self.started).total_seconds()


def read_group(autoscaling: Any, name: str) -> Group:
    """Read a group.

    Raises:
        PermanentError: there is none of that name.
        botocore.exceptions.ClientError: it may not be read.
    """
    found = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    if not found["AutoScalingGroups"]:
        raise PermanentError(
            "group_missing",
            f"There is no Auto Scaling group {name!r} in this region and account.",
            "Check the name, AWS_DEFAULT_REGION and the credentials; the stack's outputs name it.",
        )
    group = found["AutoScalingGroups"][0]
    states = [instance["LifecycleState"] for instance in group.get("Instances", [])]
    tags = {tag["Key"]: tag.get("Value", "") for tag in group.get("Tags", [])}
    return Group(
        name=name,
        in_service=states.count(IN_SERVICE),
        pending=sum(state in STARTING for state in states),
        desired=int(group["DesiredCapacity"]),
        min=int(group["MinSize"]),
        max=int(group["MaxSize"]),
        decision=tags.get(DECISION_TAG, ""),
    )


def read_activities(autoscaling: Any, name: str, count: int = 20) -> list[Activity]:
    """What the group did last, newest first; empty where the endpoint keeps no record."""
    found = autoscaling.describe_scaling_activities(AutoScalingGroupName=name, MaxRecords=count)
    return [_activity(activity) for activity in found.get("Activities", [])]


def learned_boot_s(activities: Sequence[Activity]) -> float | None:
    """Median time from launch to service; None where nothing has been launched.

    An instance comes into service when its worker is ready, as its launch hook says.
    """
    times = [activity.launch_s for activity in activities if activity.launch_s is not None]
    return statistics.median(times) if times else None


def set_desired(autoscaling: Any, group: str, desired: int, reason: str) -> None:
    """Set how many instances a group wants, and keep the reason in its tag.

    Instances that are protected stay until they are idle, whatever is set.

    Raises:
        botocore.exceptions.ClientError: it could not be set.
    """
    autoscaling.set_desired_capacity(
        AutoScalingGroupName=group, DesiredCapacity=desired, HonorCooldown=False
    )
    tag = {
        "ResourceId": group,
        "ResourceType": "auto-scaling-group",
        "Key": DECISION_TAG,
        "Value": _tag_value(reason),
        "PropagateAtLaunch": False,
    }
    try:
        autoscaling.create_or_update_tags(Tags=[tag])
    except ClientError as error:  # the capacity is set; its reason is in the log as well
        if error.response["Error"]["Code"] not in {"AccessDenied", "InvalidAction"}:
            raise


def _activity(activity: Mapping[str, Any]) -> Activity:
    return Activity(
        description=activity.get("Description", ""),
        cause=activity.get("Cause", ""),
        status=activity.get("StatusCode", ""),
        started=activity["StartTime"],
        ended=activity.get("EndTime"),
    )


def _tag_value(reason: str) -> str:
    """Of a reason what a tag may hold."""
    allowed = "".join(c if c.isalnum() or c in " _.:/=+-@" else " " for c in reason)
    return " ".join(allowed.split())[:TAG_LENGTH]
