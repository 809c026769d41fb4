"""All templates of deploy/: what holds for each of them, and between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cfnlint.api
import pytest
from cfnlint.decode import cfn_yaml

from cis_tasks.deployment.parts import PARTS
from cis_tasks.local.stack import template
from scaling.alarmed import METRICS
from scaling.alarms import Alarm
from scaling.metrics import NAMESPACE

BODY_LIMIT = 51_200  # bytes that CloudFormation takes in TemplateBody
DEPLOY = template().parent
TEMPLATES = {part.name: cfn_yaml.load(str(DEPLOY / part.file)) for part in PARTS.values()}
NOT_ALIKE = {"WorkerCodeKey", "ScalingTopicArn"}
"""Parameters that one template can do without and another cannot."""


def of_type(kind: str) -> list[tuple[str, Any]]:
    return [
        (name, resource["Properties"])
        for part in TEMPLATES.values()
        for name, resource in part["Resources"].items()
        if resource["Type"] == f"AWS::{kind}"
    ]


@pytest.mark.parametrize("name", PARTS)
def test_template_passes_cfn_lint_and_fits_into_one_request(name: str) -> None:
    file: Path = DEPLOY / PARTS[name].file
    assert cfnlint.api.lint_file(file) == []
    assert file.stat().st_size < BODY_LIMIT


def test_every_template_is_a_part() -> None:
    assert {part.file for part in PARTS.values()} == {file.name for file in DEPLOY.glob("*.yaml")}


def test_what_has_the_same_name_has_the_same_default() -> None:
    defaults: dict[str, set[str]] = {}
    for part in TEMPLATES.values():
        for name, parameter in part["Parameters"].items():
            if "Default" in parameter and name not in NOT_ALIKE:
                defaults.setdefault(name, set()).add(str(parameter["Default"]))
    assert {name: values for name, values in defaults.items() if len(values) > 1} == {}


def test_nothing_lets_ssh_in() -> None:
    groups = of_type("EC2::SecurityGroup")
    rules = [rule for _, group in groups for rule in group.get("SecurityGroupIngress", [])]
    assert rules
    for rule in rules:
        assert rule["FromPort"] in (443, 8080, {"Fn::If": ["HasCertificate", 443, 80]})
        assert rule["ToPort"] == rule["FromPort"]
        assert rule.get("CidrIp") != "0.0.0.0/0"
    assert not [data for _, data in of_type("EC2::LaunchTemplate") if "KeyName" in str(data)]


def test_machines_require_imdsv2_and_have_encrypted_disks() -> None:
    found = of_type("EC2::LaunchTemplate")
    assert len(found) == 2
    for _, properties in found:
        data = properties["LaunchTemplateData"]
        assert data["MetadataOptions"]["HttpTokens"] == "required"
        assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        assert all(disk["Ebs"]["Encrypted"] is True for disk in data["BlockDeviceMappings"])


def test_buckets_are_closed() -> None:
    for name, bucket in of_type("S3::Bucket"):
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}, name
        assert "BucketEncryption" in bucket


def test_logs_do_not_stay_for_ever() -> None:
    groups = of_type("Logs::LogGroup")
    assert len(groups) >= 4
    assert all("RetentionInDays" in group for _, group in groups)


def test_alarms_tell_the_topic_and_watch_what_is_published() -> None:
    parameters = {n: p.get("Default") for n, p in TEMPLATES["monitoring"]["Parameters"].items()}
    alarms = {
        name: resource["Properties"]
        for name, resource in TEMPLATES["monitoring"]["Resources"].items()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }
    for title in ("Spine", "Image"):
        assert {f"{title}{what}" for what in ("DeadLetters", "WaitsLong", "AtMaximum")} <= {*alarms}
        # Readings that stop come to nobody's notice but by an alarm for missing data.
        assert alarms[f"{title}Unobserved"]["TreatMissingData"] == "breaching"
    for name, alarm in alarms.items():
        assert alarm["AlarmActions"] == [{"Ref": "ScalingTopicArn"}], name
        threshold = alarm["Threshold"]
        number = parameters[threshold["Ref"]] if isinstance(threshold, dict) else threshold
        Alarm.from_aws({**alarm, "Threshold": number})  # refuses what CloudWatch would refuse
        if alarm["Namespace"] == NAMESPACE:
            assert alarm["MetricName"] in {*METRICS, "AtMaximum", "Visible"}
