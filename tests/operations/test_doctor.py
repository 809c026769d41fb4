"""``cis doctor``: nothing to say of a good installation, and the right thing of each broken one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest

from cis_tasks import aws
from cis_tasks.app import app
from cis_tasks.broker.owners import HOST_TAG, INSTALLATION_TAG, PID_TAG, SEEN_TAG, STARTED_TAG
from cis_tasks.local.cloud import Cloud
from cis_tasks.operations.doctor import buckets, surroundings
from scaling.publisher import Publisher
from scaling.reader import Clients
from scaling.settings import watched
from support.cloud import MakeCloud, forget
from support.sessions import cis, cis_json

Break = Callable[[Cloud], Any]


def examined(*only: str) -> dict[str, dict[str, str]]:
    """Check → its first finding."""
    from cis_tasks.operations.doctor.examination import run

    found = [finding.to_dict() for finding in reversed(run(only))]
    return {finding["check"]: finding for finding in found}


def test_a_good_installation_has_no_findings(
    cloud_of_module: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_quotas(monkeypatch, 1000)
    assert "CIS/Scaling" in examined("scaling")["scaling.freshness"]["what"]  # nobody publishes
    Publisher(watched(), Clients.make()).tick()
    s3, rule = boto3.client("s3"), {"ID": "x", "Status": "Enabled", "Expiration": {"Days": 30}}
    s3.put_bucket_lifecycle_configuration(
        Bucket=cloud_of_module.stack.output_bucket,
        LifecycleConfiguration={"Rules": [{**rule, "Filter": {"Prefix": "celery/"}}]},
    )  # the emulator drops the template's
    assert cis_json("doctor", "--strict") == []
    assert "Nothing is wrong" in cis("doctor").stdout
    assert "Nothing is wrong" in cis("doctor", "--offline").stdout


def attributes(which: str, **changed: str) -> Callable[[Cloud], Any]:
    """Break a queue's attributes for the time of a block."""

    @contextmanager
    def broken(cloud: Cloud) -> Iterator[None]:
        sqs = boto3.client("sqs")
        urls = {"queue": cloud.stack.queue_urls, "dead": cloud.stack.dead_letter_urls}[which]
        where = {"QueueUrl": urls["spine"]}
        kept = sqs.get_queue_attributes(**where, AttributeNames=["All"])["Attributes"]
        dead = cloud.stack.outputs["SpineQueueArn"].replace(".fifo", "_dlq.fifo")
        filled = {name: value.replace("DEAD", dead) for name, value in changed.items()}
        sqs.set_queue_attributes(**where, Attributes=filled)
        yield
        back = {name: kept.get(name, "false") for name in changed}
        sqs.set_queue_attributes(**where, Attributes=back)

    return broken


@contextmanager
def no_versions(cloud: Cloud) -> Iterator[None]:
    s3, bucket = boto3.client("s3"), cloud.stack.output_bucket
    for status in ("Suspended", "Enabled"):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
        if status == "Suspended":
            yield


@contextmanager
def nobody_told(cloud: Cloud) -> Iterator[None]:
    s3, where = boto3.client("s3"), {"Bucket": cloud.stack.input_bucket}
    kept = s3.get_bucket_notification_configuration(**where)
    kept.pop("ResponseMetadata")
    s3.put_bucket_notification_configuration(**where, NotificationConfiguration={})
    yield
    s3.put_bucket_notification_configuration(**where, NotificationConfiguration=kept)


@contextmanager
def public(cloud: Cloud) -> Iterator[None]:
    s3, where = boto3.client("s3"), {"Bucket": cloud.stack.input_bucket}
    kept = s3.get_public_access_block(**where)["PublicAccessBlockConfiguration"]
    s3.delete_public_access_block(**where)
    yield
    s3.put_public_access_block(**where, PublicAccessBlockConfiguration=kept)


@contextmanager
def undeliverable(cloud: Cloud) -> Iterator[None]:
    sqs, url = boto3.client("sqs"), cloud.stack.undelivered_url
    sqs.send_message(QueueUrl=url, MessageBody="{}")
    yield
    sqs.purge_queue(QueueUrl=url)


@contextmanager
def a_dead_letter(cloud: Cloud) -> Iterator[None]:
    sqs, url = boto3.client("sqs"), cloud.stack.dead_letter_urls["spine"]
    ids = {"MessageGroupId": "g", "MessageDeduplicationId": "d"}
    sqs.send_message(QueueUrl=url, MessageBody="-", **ids)
    yield
    sqs.purge_queue(QueueUrl=url)


@contextmanager
def another_queue(cloud: Cloud) -> Iterator[None]:
    function = boto3.client("lambda")
    where = {"FunctionName": cloud.stack.function}
    kept = function.get_function_configuration(**where)["Environment"]
    variables = {**kept["Variables"], "CIS_QUEUE_URL_SPINE": "https://elsewhere/q.fifo"}
    function.update_function_configuration(**where, Environment={"Variables": variables})
    yield
    function.update_function_configuration(**where, Environment=kept)


@contextmanager
def uninvited(cloud: Cloud) -> Iterator[None]:
    function = boto3.client("lambda")
    where = {"FunctionName": cloud.stack.function}
    [statement] = json.loads(function.get_policy(**where)["Policy"])["Statement"]
    function.remove_permission(**where, StatementId=statement["Sid"])
    yield
    function.add_permission(
        **where,
        StatementId=statement["Sid"],
        Action="lambda:InvokeFunction",
        Principal="s3.amazonaws.com",
    )


@contextmanager
def orphan(cloud: Cloud) -> Iterator[None]:
    sqs, prefix = boto3.client("sqs"), cloud.stack.outputs["ControlPrefix"]
    tags = {INSTALLATION_TAG: prefix, HOST_TAG: "gone", PID_TAG: "1", STARTED_TAG: "1"}
    made = sqs.create_queue(QueueName=f"{prefix}left", tags={**tags, SEEN_TAG: "0"})
    yield
    sqs.delete_queue(QueueUrl=made["QueueUrl"])


@contextmanager
def wrong_clock(cloud: Cloud) -> Iterator[None]:
    def late(parsed: dict[str, Any], **_: object) -> None:
        parsed["ResponseMetadata"]["HTTPHeaders"]["date"] = "Sun, 06 Nov 1994 08:49:37 GMT"

    events = aws.s3().meta.events
    events.register("after-call.s3.HeadBucket", late)
    yield
    events.unregister("after-call.s3.HeadBucket", late)


def refusing(operation: str) -> Callable[[Cloud], Any]:
    """AWS refuses an operation, as a policy that lacks it would."""

    @contextmanager
    def broken(cloud: Cloud) -> Iterator[None]:
        def refuse(http_response: Any, parsed: dict[str, Any], **_: object) -> None:
            parsed["Error"] = {"Code": "AccessDenied", "Message": "not yours"}
            http_response.status_code = 403

        service = operation.partition(".")[0]
        events = (aws.s3() if service == "s3" else aws.sqs()).meta.events
        events.register(f"after-call.{operation}", refuse)
        yield
        events.unregister(f"after-call.{operation}", refuse)

    return broken


def configured(**changed: Any) -> Callable[[Cloud], Any]:
    """Celery's configuration says something else."""

    @contextmanager
    def broken(cloud: Cloud) -> Iterator[None]:
        kept = {name: app.conf[name] for name in changed}
        app.conf.update(changed)
        yield
        app.conf.update(kept)

    return broken


@contextmanager
def for_ever(cloud: Cloud) -> Iterator[None]:
    s3, where = boto3.client("s3"), {"Bucket": cloud.stack.output_bucket}
    s3.delete_bucket_lifecycle(**where)
    yield


BROKEN: list[tuple[str, str, Break]] = [
    ("queues.visibility", "error", configured(broker_transport="sqs")),
    ("queues.visibility", "warning", attributes("queue", VisibilityTimeout="5")),
    ("queues.visibility", "warning", attributes("queue", VisibilityTimeout="43200")),
    ("queues.redrive", "error", attributes("queue", RedrivePolicy="")),
    (
        "queues.redrive",
        "error",
        attributes("queue", RedrivePolicy='{"deadLetterTargetArn":"DEAD","maxReceiveCount":"1"}'),
    ),
    ("queues.deduplication", "warning", attributes("queue", ContentBasedDeduplication="true")),
    ("queues.fifo", "note", attributes("queue", FifoThroughputLimit="perQueue")),
    ("queues.encryption", "warning", attributes("queue", SqsManagedSseEnabled="false")),
    ("queues.dead_letters", "warning", attributes("dead", MessageRetentionPeriod="3600")),
    ("queues.dead_letters", "warning", a_dead_letter),
    ("queues.undelivered", "warning", undeliverable),
    ("buckets.versions", "error", no_versions),
    ("buckets.notification", "error", nobody_told),
    ("buckets.public", "error", public),
    ("buckets.lifecycle", "note", for_ever),
    ("buckets.function", "error", another_queue),
    ("buckets.permission", "error", uninvited),
    ("control.orphans", "warning", orphan),
    ("clock.skew", "error", wrong_clock),
    ("permissions.calls", "error", refusing("sqs.DeleteMessage")),
    ("permissions.calls", "error", refusing("s3.PutObject")),
    ("queues.fifo", "note", refusing("sqs.GetQueueAttributes")),
    ("configuration.transport", "error", configured(broker_transport="sqs")),
    ("configuration.transport", "error", configured(worker_consumer="celery.worker:C")),
    ("configuration.acks", "error", configured(task_acks_late=False)),
    ("configuration.acks", "error", configured(task_reject_on_worker_lost=False)),
    ("configuration.prefetch", "warning", configured(worker_prefetch_multiplier=4)),
    ("configuration.prefetch", "error", configured(worker_prefetch_multiplier=0)),
    ("configuration.limits", "error", configured(task_time_limit=50_000)),
    ("configuration.limits", "warning", configured(task_time_limit=None)),
    ("configuration.content", "error", configured(accept_content=["json", "pickle"])),
]


@pytest.mark.parametrize(("check", "level", "broken"), BROKEN)
def test_each_fault_is_found_and_told_with_its_remedy(
    cloud_of_module: Cloud, check: str, level: str, broken: Break
) -> None:
    with broken(cloud_of_module):
        found = examined(check.partition(".")[0])
    assert found[check]["level"] == level
    assert all(found[check][part] for part in ("what", "why", "remedy"))


class Group:
    """A group with a policy and the alarm that calls it."""

    def __init__(self, name: str, kind: str = "t3.micro") -> None:
        self.autoscaling, self.cloudwatch = boto3.client("autoscaling"), boto3.client("cloudwatch")
        self.named = {"AutoScalingGroupName": name}
        ec2 = boto3.client("ec2")
        data = {"ImageId": "ami-12345678", "InstanceType": kind}
        made = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
        template = {"LaunchTemplateId": made["LaunchTemplate"]["LaunchTemplateId"]}
        self.autoscaling.create_auto_scaling_group(
            **self.named,
            MinSize=0,
            MaxSize=2,
            LaunchTemplate={**template, "Version": "$Default"},
            AvailabilityZones=["us-east-1a"],
        )
        made = self.autoscaling.put_scaling_policy(
            **self.named,
            PolicyName="out",
            PolicyType="StepScaling",
            AdjustmentType="ChangeInCapacity",
            StepAdjustments=[{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
        )
        self.arn = made["PolicyARN"]
        self.metric = {"Namespace": "CIS", "MetricName": f"Backlog-{name}"}

    def alarm(self, *actions: str) -> None:
        self.cloudwatch.put_metric_alarm(
            AlarmName=self.named["AutoScalingGroupName"],
            **self.metric,
            AlarmActions=list(actions),
            Statistic="Maximum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
        )

    def publish(self) -> None:
        metric = {"MetricName": self.metric["MetricName"], "Value": 3.0}
        self.cloudwatch.put_metric_data(Namespace="CIS", MetricData=[metric])


def test_scaling_is_followed_from_the_metric_to_the_group(
    cloud_of_module: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIS_GROUPS", "another")
    forget()
    assert examined("scaling") == {}  # no group stands
    group = Group(cloud_of_module.stack.name)
    monkeypatch.setenv("CIS_GROUPS", f"another,{group.named['AutoScalingGroupName']}")
    forget()
    try:
        assert set(examined("scaling")) == {"scaling.wiring"}  # no alarm
        group.alarm("arn:aws:sns:us-east-1:000000000000:mail")
        assert set(examined("scaling")) == {"scaling.wiring"}  # it calls somebody else
        group.alarm(group.arn)
        assert set(examined("scaling")) == {"scaling.freshness"}  # nobody publishes
        group.publish()
        assert examined("scaling") == {}
        group.autoscaling.update_auto_scaling_group(**group.named, MaxSize=0)
        assert set(examined("scaling")) == {"scaling.group"}
        group.autoscaling.delete_policy(**group.named, PolicyName="out")
        assert "no scaling policy" in examined("scaling")["scaling.wiring"]["what"]
    finally:
        monkeypatch.undo()
        forget()


class Quotas:
    """Service quotas, which the emulator does not have."""

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed

    def get_service_quota(self, **_: str) -> dict[str, Any]:
        return {"Quota": {"QuotaName": "Running G and VT instances", "Value": self.allowed}}


def answer_quotas(monkeypatch: pytest.MonkeyPatch, allowed: float) -> None:
    real, quotas = aws.client, Quotas(allowed)
    monkeypatch.setattr(
        aws, "client", lambda service: quotas if service == "service-quotas" else real(service)
    )


def test_a_group_that_the_publisher_sets_needs_no_policy(make_cloud: MakeCloud) -> None:
    with make_cloud({"ScalingPolicy": "slo"}):
        assert "scaling.wiring" not in examined("scaling")


@pytest.mark.parametrize(("allowed", "level"), [(0, "error"), (4, "warning"), (1000, None)])
def test_a_quota_below_the_maximum_of_the_groups_is_found(
    cloud_of_module: Cloud, monkeypatch: pytest.MonkeyPatch, allowed: float, level: str | None
) -> None:
    name = f"{cloud_of_module.stack.name}-{allowed}"
    Group(name, "g6.xlarge")
    monkeypatch.setenv("CIS_GROUPS", name)
    forget()
    answer_quotas(monkeypatch, allowed)
    try:
        found = examined("quotas")
    finally:
        monkeypatch.undo()
        forget()
    assert found.get("quotas.machines", {}).get("level") == level


def test_unset_ids_are_found(cloud_of_module: Cloud) -> None:
    from celery import signals

    from cis_tasks.broker import fifo

    signals.before_task_publish.disconnect(dispatch_uid="cis_tasks.broker.fifo")
    try:
        assert "configuration.groups" in examined("configuration")
    finally:
        fifo.install()


def test_other_code_in_the_function_and_old_runtimes_are_found(
    cloud_of_module: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "ENDING_RUNTIMES", {"python3.13": "2029-06-30"})
    monkeypatch.setattr(surroundings, "KNOWN", {"celery": ("6.0", "6.1")})
    monkeypatch.setattr(buckets.package, "build", lambda path: Built())
    found = examined("versions", "buckets")
    wanted = {"buckets.function", "versions.function", "versions.libraries"}
    assert set(found) - {"buckets.lifecycle"} == wanted


class Built:
    sha256 = "00"


def test_an_unknown_queue_is_told_by_every_check_that_needs_it(
    cloud_of_module: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIS_QUEUE_URL_SPINE", "http://127.0.0.1:1/000000000000/none.fifo")
    forget()
    try:
        found = examined("queues")
    finally:
        monkeypatch.undo()
        forget()
    assert "could not be looked at" in found["queues.redrive"]["what"]


def test_programs_get_an_exit_code_and_json(cloud_of_module: Cloud) -> None:
    environment = {**os.environ, "CIS_TIME_LIMIT_S": "43200"}
    asked = [sys.executable, "-m", "cis_tasks", "doctor", "configuration", "--json"]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [finding] = json.loads(done.stdout)
    assert finding["check"] == "configuration.limits"
    with attributes("queue", VisibilityTimeout="5")(cloud_of_module):
        cis("doctor", "queues")
        cis("doctor", "queues", "--strict", code=1)
    assert cis("doctor", "nonsense", code=2)
