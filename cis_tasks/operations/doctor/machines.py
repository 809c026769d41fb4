"""Checks of scaling: metric → alarm → policy → group, as far as a group stands."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cis_tasks import aws
from cis_tasks.operations.doctor.installation import Installation
from cis_tasks.operations.doctor.registry import Level, Problem, check

FRESH_S = 900.0
GROUP_VARIABLE = "CIS_SCALING_GROUP_"
TAG, POLICY_TAG = "cis-pipeline", "cis-policy"
VCPU_QUOTAS = (  # "Running On-Demand … instances"; spot machines have quotas of their own
    ("g", "L-DB2E81BA"),
    ("p", "L-417A185B"),
)
BLOCKING = {"Launch", "Terminate", "AlarmNotification"}


def _groups(installation: Installation) -> list[Mapping[str, Any]]:
    """The installation's groups: those that the environment names, else those with our tag."""
    wanted = {name.strip() for name in installation.settings.groups.split(",") if name.strip()}
    wanted = wanted or {v for k, v in os.environ.items() if k.startswith(GROUP_VARIABLE) and v}
    pages = aws.client("autoscaling").get_paginator("describe_auto_scaling_groups")
    groups = [group for page in pages.paginate() for group in page["AutoScalingGroups"]]
    if wanted:
        return [group for group in groups if group["AutoScalingGroupName"] in wanted]
    return [g for g in groups if any(tag["Key"] == TAG for tag in g.get("Tags", []))]


def _policies(group: str) -> list[Mapping[str, Any]]:
    pages = aws.client("autoscaling").get_paginator("describe_policies")
    found = pages.paginate(AutoScalingGroupName=group)
    return [policy for page in found for policy in page["ScalingPolicies"]]


def _alarms() -> list[Mapping[str, Any]]:
    pages = aws.client("cloudwatch").get_paginator("describe_alarms")
    return [alarm for page in pages.paginate() for alarm in page.get("MetricAlarms", [])]


@check("scaling.group")
def group(installation: Installation) -> Iterator[Problem]:
    """Can the groups grow and shrink?"""
    for each in _groups(installation):
        name = each["AutoScalingGroupName"]
        if each["MaxSize"] == 0:
            yield (
                Level.ERROR,
                f"The group {name} may have no machine: its maximum is 0.",
                "Jobs wait for ever.",
                "Raise its MaxSize.",
            )
        suspended = {p["ProcessName"] for p in each.get("SuspendedProcesses", [])} & BLOCKING
        if suspended:
            yield (
                Level.ERROR,
                f"The group {name} has suspended {', '.join(sorted(suspended))}.",
                "It neither grows nor shrinks by itself.",
                f"aws autoscaling resume-processes --auto-scaling-group-name {name}",
            )


@check("scaling.wiring")
def wiring(installation: Installation) -> Iterator[Problem]:
    """Does each policy of a group have an alarm that calls it, and the group a policy?"""
    groups = _groups(installation)
    called = {
        action
        for alarm in (_alarms() if groups else [])
        if alarm.get("ActionsEnabled", True)
        for kind in ("AlarmActions", "OKActions", "InsufficientDataActions")
        for action in alarm.get(kind, [])
    }
    for each in groups:
        name = each["AutoScalingGroupName"]
        policies = _policies(name)
        if not policies and not _is_set_by_publisher(each):
            yield (
                Level.ERROR,
                f"The group {name} has no scaling policy.",
                "However long the queue is, no machine is added.",
                "Deploy deploy/template.yaml.",
            )
        for policy in policies:
            by_itself = policy.get("PolicyType") in {"TargetTrackingScaling", "PredictiveScaling"}
            if not by_itself and policy["PolicyARN"] not in called:
                yield (
                    Level.ERROR,
                    f"No alarm with actions calls the policy {policy['PolicyName']} of {name}.",
                    "The policy is never carried out.",
                    "Name the policy in the AlarmActions of its alarm, with actions enabled.",
                )


def _is_set_by_publisher(group: Mapping[str, Any]) -> bool:
    """Whether our publisher sets its capacity, as under the policy ``slo``."""
    tags = {tag["Key"]: tag.get("Value") for tag in group.get("Tags", [])}
    return tags.get(POLICY_TAG) == "slo"


@check("scaling.freshness")
def freshness(installation: Installation) -> Iterator[Problem]:
    """Do the alarms of the groups' policies have data?"""
    arns = {
        policy["PolicyARN"]
        for each in _groups(installation)
        for policy in _policies(each["AutoScalingGroupName"])
    }
    for alarm in _alarms() if arns else []:
        if arns.isdisjoint(alarm.get("AlarmActions", [])) or "MetricName" not in alarm:
            continue
        if not _has_data(alarm):
            yield (
                Level.ERROR,
                (
                    f"The metric {alarm['Namespace']}/{alarm['MetricName']} of the alarm "
                    f"{alarm['AlarmName']} has no value of the last {FRESH_S / 60:.0f} minutes."
                ),
                "The alarm never changes: nothing scales.",
                "Look at the publisher's log, and whether its schedule is on.",
            )


def _has_data(alarm: Mapping[str, Any]) -> bool:
    now = datetime.now(UTC)
    found = aws.client("cloudwatch").get_metric_statistics(
        Namespace=alarm["Namespace"],
        MetricName=alarm["MetricName"],
        Dimensions=alarm.get("Dimensions", []),
        StartTime=now - timedelta(seconds=FRESH_S),
        EndTime=now,
        Period=60,
        Statistics=["SampleCount"],
    )
    return bool(found["Datapoints"])


@check("quotas.machines")
def machines(installation: Installation) -> Iterator[Problem]:
    """May the groups have as many machines as they want?"""
    wanted: dict[str, int] = {}
    for each in _groups(installation):
        kind = _instance_type(each)
        quota = next((code for begin, code in VCPU_QUOTAS if kind.startswith(begin)), None)
        if quota is not None:
            wanted[quota] = wanted.get(quota, 0) + each["MaxSize"] * _vcpus(kind)
    for quota, vcpus in wanted.items():
        found = aws.client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=quota)
        name, allowed = found["Quota"]["QuotaName"], found["Quota"]["Value"]
        if vcpus > allowed:
            yield (
                Level.ERROR if not allowed else Level.WARNING,
                f"The groups at their maximum need {vcpus} vCPUs; {name} allows {allowed:.0f}.",
                "AWS starts no more machines beyond it, and a new account has none with GPUs.",
                (
                    f"aws service-quotas request-service-quota-increase --service-code ec2 "
                    f"--quota-code {quota} --desired-value {vcpus}"
                ),
            )


def _instance_type(group: Mapping[str, Any]) -> str:
    """The type of a group's machines, as its launch template says; empty if it does not."""
    mixed = group.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {})
    given = group.get("LaunchTemplate") or mixed.get("LaunchTemplateSpecification")
    overrides = [
        each["InstanceType"] for each in mixed.get("Overrides", []) if "InstanceType" in each
    ]
    if overrides or not given:
        return overrides[0] if overrides else ""
    which = (
        {"LaunchTemplateId": given["LaunchTemplateId"]}
        if given.get("LaunchTemplateId")
        else {"LaunchTemplateName": given["LaunchTemplateName"]}
    )
    version = given.get("Version") or "$Default"
    found = aws.client("ec2").describe_launch_template_versions(**which, Versions=[version])
    [template] = found["LaunchTemplateVersions"]
    return str(template["LaunchTemplateData"].get("InstanceType", ""))


def _vcpus(kind: str) -> int:
    [found] = aws.client("ec2").describe_instance_types(InstanceTypes=[kind])["InstanceTypes"]
    return int(found["VCpuInfo"]["DefaultVCpus"])
