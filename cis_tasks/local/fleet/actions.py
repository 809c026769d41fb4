"""What alarms do to a group: step, simple and target-tracking policies, as on AWS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cis_tasks.local.fleet.alarms import Look
from cis_tasks.local.fleet.groups import Group
from scaling.alarms import State
from scaling.steps import Bounds, Step, Steps, step_capacity, tracking_capacity


@dataclass(frozen=True)
class Policy:
    """A scaling policy of a group.

    Attributes:
        arn: what alarms name it by.
        name: its name.
        group: name of its group.
        steps: of a step or simple policy; None of target tracking.
        target: of target tracking.
        scale_in: whether target tracking may remove.
        warmup_s: how long a new instance does not count.
        cooldown_s: of a simple policy: how long nothing follows a change.
        period_s: of target tracking: period of the metric; None is AWS's default.
        alarms: names of the alarms that AWS made for it.
    """

    arn: str
    name: str
    group: str
    steps: Steps | None
    target: float = 0.0
    scale_in: bool = True
    warmup_s: float = 0.0
    cooldown_s: float = 0.0
    period_s: int | None = None
    alarms: tuple[str, ...] = ()

    @classmethod
    def from_aws(cls, policy: Mapping[str, Any], default_cooldown_s: float = 0.0) -> Policy:
        """A policy as DescribePolicies gives it.

        Raises:
            PermanentError: its steps make no sense.
        """
        kind = policy.get("PolicyType", "SimpleScaling")
        tracking = policy.get("TargetTrackingConfiguration") or {}
        metric = tracking.get("CustomizedMetricSpecification") or {}
        simple = kind == "SimpleScaling"
        return cls(
            arn=policy["PolicyARN"],
            name=policy["PolicyName"],
            group=policy["AutoScalingGroupName"],
            steps=None if kind == "TargetTrackingScaling" else _steps(policy, simple=simple),
            target=float(tracking.get("TargetValue") or 0),
            scale_in=not tracking.get("DisableScaleIn"),
            warmup_s=float(policy.get("EstimatedInstanceWarmup") or 0),
            cooldown_s=float(policy.get("Cooldown") or default_cooldown_s) if simple else 0.0,
            period_s=int(metric["Period"]) if metric.get("Period") else None,
            alarms=tuple(alarm["AlarmName"] for alarm in policy.get("Alarms") or ()),
        )

    def capacity(self, look: Look, group: Group) -> int:
        """The capacity that it asks for as its alarm is on; not yet clamped."""
        warming = group.warming(self.warmup_s)
        have = max(group.plan.desired, group.in_service + group.pending)
        if self.steps is not None:
            return step_capacity(self.steps, look.beyond, have, warming)
        asked = tracking_capacity(look.value or 0.0, self.target, have, warming)
        return asked if self.scale_in else max(have, asked)


@dataclass(frozen=True)
class Change:
    """What alarms ask of a group.

    Attributes:
        desired: instances, within the group's limits; perhaps as many as before.
        wanted: instances that were asked for.
        reason: why.
    """

    desired: int
    wanted: int
    reason: str


@dataclass
class Actions:
    """Acts for the alarms of groups, each as often as Auto Scaling is told.

    Attributes:
        again_s: an alarm that stays on acts again after so long (AWS: 60).
    """

    again_s: float
    _acted_s: dict[tuple[str, str], float] = field(default_factory=dict)
    _changed_s: dict[str, float] = field(default_factory=dict)

    def decide(
        self, group: Group, looks: Iterable[Look], policies: Mapping[str, Policy], now_s: float
    ) -> Change | None:
        """What the alarms that are on make of a group; None where none asks for anything now.

        Where several ask, the largest capacity counts.
        """
        asked = []
        for look in looks:
            for arn in look.watch.actions:
                policy = policies.get(arn)
                if policy and policy.group == group.name and self._due(look, policy, now_s):
                    asked.append((policy.capacity(look, group), str(look)))
        if not asked:
            return None
        wanted, reason = max(asked)
        desired = Bounds(group.plan.min, group.plan.max).clamp(wanted)
        if desired < wanted:
            reason += f"; {wanted} wanted, the maximum is {group.plan.max}"
        if desired != group.plan.desired:
            self._changed_s[group.name] = now_s
        return Change(desired, wanted, reason)

    def _due(self, look: Look, policy: Policy, now_s: float) -> bool:
        key = (look.watch.name, policy.arn)
        if look.state is not State.ALARM or look.value is None:
            self._acted_s.pop(key, None)
            return False
        if now_s - self._changed_s.get(policy.group, 0.0) < policy.cooldown_s:
            return False
        if now_s - self._acted_s.get(key, 0.0) < self.again_s:
            return False
        self._acted_s[key] = now_s
        return True


def _steps(policy: Mapping[str, Any], *, simple: bool) -> Steps:
    if not simple:
        return Steps.from_aws(policy)
    return Steps(
        (Step(None, None, int(policy["ScalingAdjustment"])),),
        adjustment=policy.get("AdjustmentType") or "ChangeInCapacity",
    )
