"""One instance of a group: its states as EC2 Auto Scaling names them, and its worker."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from cis_tasks.local.workers import State as WorkerState
from cis_tasks.local.workers import Worker


class Lifecycle(StrEnum):
    """Where an instance is.

    Source: https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html
    """

    PENDING = "Pending"
    PENDING_WAIT = "Pending:Wait"
    IN_SERVICE = "InService"
    TERMINATING = "Terminating"
    TERMINATING_WAIT = "Terminating:Wait"
    TERMINATING_PROCEED = "Terminating:Proceed"
    TERMINATED = "Terminated"


STARTING = frozenset({Lifecycle.PENDING, Lifecycle.PENDING_WAIT})
LEAVING = frozenset(
    {Lifecycle.TERMINATING, Lifecycle.TERMINATING_WAIT, Lifecycle.TERMINATING_PROCEED}
)


@dataclass(eq=False)
class Instance:
    """An instance, from its launch to its end.

    Attributes:
        group: name of its group.
        zone: its availability zone.
        launched_s: when it was launched, in seconds since the epoch.
        state: where it is.
        protected: whether scale-in leaves it alone.
        worker: its worker process, once it has booted.
        in_service_s: since when it takes jobs.
        hook_until_s: when a lifecycle hook that waits for it runs out.
        shutdown_s: since when its machine shuts down.
        spot_end_s: when a spot interruption takes it away; None where none is announced.
        advised_s: when EC2 recommended to replace it.
        why: why it leaves or left.
        ended_s: when it was gone.
        id: as EC2's look.
    """

    group: str
    zone: str
    launched_s: float
    state: Lifecycle = Lifecycle.PENDING
    protected: bool = False
    worker: Worker | None = None
    in_service_s: float | None = None
    hook_until_s: float | None = None
    shutdown_s: float | None = None
    spot_end_s: float | None = None
    advised_s: float | None = None
    why: str = ""
    ended_s: float | None = None
    id: str = field(default_factory=lambda: f"i-{uuid.uuid4().hex[:17]}")

    @property
    def starting(self) -> bool:
        """Whether it does not take jobs yet."""
        return self.state in STARTING

    @property
    def counts(self) -> bool:
        """Whether it counts against the group's desired capacity."""
        return self.starting or self.state is Lifecycle.IN_SERVICE

    @property
    def leaving(self) -> bool:
        """Whether it has to go and is not gone."""
        return self.state in LEAVING

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self.state is Lifecycle.TERMINATED

    @property
    def worker_ended(self) -> bool:
        """Whether it had a worker and that has ended."""
        return self.worker is not None and self.worker.exit_code is not None

    @property
    def worker_ready(self) -> bool:
        """Whether its worker takes jobs."""
        return self.worker is not None and self.worker.state is WorkerState.READY

    def metadata(self) -> dict[str, str]:
        """What its metadata service tells, by path under ``/latest/meta-data/``."""
        told = {
            "instance-id": self.id,
            "placement/availability-zone": self.zone,
            "placement/region": self.zone[:-1],
            "tags/instance/aws:autoscaling:groupName": self.group,
            "autoscaling/target-lifecycle-state": "Terminated" if self.leaving else "InService",
        }
        if self.spot_end_s is not None:
            action = {"action": "terminate", "time": _moment(self.spot_end_s)}
            told["spot/instance-action"] = json.dumps(action)
        if self.advised_s is not None:
            advice = {"noticeTime": _moment(self.advised_s)}
            told["events/recommendations/rebalance"] = json.dumps(advice)
        return told


def _moment(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
