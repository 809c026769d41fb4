"""The CloudFormation template: what it says, before anything runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cfnlint.api
import pytest
from cfnlint.decode import cfn_yaml

from cis_tasks.local.stack import Names, template
from cis_tasks.pipelines import PIPELINES

NOT_NARROWER = {
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:DescribeScalingActivities",
    "cloudwatch:PutMetricData",
    "ecr:GetAuthorizationToken",
    "sqs:ListQueues",
    "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
}
"""Actions for which AWS knows no narrower resource than all."""

BODY_LIMIT = 51_200  # bytes that CreateStack takes in TemplateBody

TEMPLATE = cfn_yaml.load(str(template()))
RESOURCES = TEMPLATE["Resources"]
PARAMETERS = TEMPLATE["Parameters"]


def of_type(kind: str) -> dict[str, Any]:
    return {n: r["Properties"] for n, r in RESOURCES.items() if r["Type"] == f"AWS::{kind}"}


def statements() -> Iterator[tuple[str, Any]]:
    """Every statement about permissions, with the resource that it belongs to."""
    for name, role in of_type("IAM::Role").items():
        for policy in role["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                yield name, statement
    for kind in ("IAM::ManagedPolicy", "IAM::Policy", "S3::BucketPolicy"):
        for name, policy in of_type(kind).items():
            for statement in policy["PolicyDocument"]["Statement"]:
                yield name, statement


def chosen(value: Any) -> Any:
    """What Fn::If gives where its condition holds."""
    return value["Fn::If"][1] if isinstance(value, dict) and "Fn::If" in value else value


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def text_of(value: Any) -> str:
    """A value of the template as the text that Fn::Sub would take for it."""
    value = chosen(value)
    if isinstance(value, str):
        return value
    ((function, argument),) = value.items()
    if function == "Fn::Sub":
        return str(argument)
    return "${" + (argument if function == "Ref" else ".".join(argument)) + "}"


def test_template_passes_cfn_lint() -> None:
    assert cfnlint.api.lint_file(template()) == []


def test_template_fits_into_one_request() -> None:
    assert template().stat().st_size < BODY_LIMIT


def test_names_that_users_know_are_the_defaults() -> None:
    defaults = {name: parameter.get("Default") for name, parameter in PARAMETERS.items()}
    assert {
        "InputBucketName": "cis-data-input",
        "OutputBucketName": "cis-data-output",
        "LambdaName": "CIS_S3_Data_Upload",
        "LambdaRoleName": "CIS_Lambda_S3",
        "SpineQueueName": "CIS_Data_load_in_fifo",
        "ImageQueueName": "CIS_Image_requests",
    }.items() <= defaults.items()


def test_every_name_can_be_chosen() -> None:
    named = {
        "S3::Bucket": "BucketName",
        "SQS::Queue": "QueueName",
        "Lambda::Function": "FunctionName",
        "Logs::LogGroup": "LogGroupName",
        "IAM::Role": "RoleName",
        "IAM::InstanceProfile": "InstanceProfileName",
        "IAM::ManagedPolicy": "ManagedPolicyName",
        "AutoScaling::AutoScalingGroup": "AutoScalingGroupName",
        "EC2::LaunchTemplate": "LaunchTemplateName",
        "SNS::Topic": "TopicName",
        "CloudWatch::Alarm": "AlarmName",
    }
    for kind, key in named.items():
        for name, properties in of_type(kind).items():
            text = text_of(properties[key])
            assert any(parameter in text for parameter in Names.unique("x").parameters()), name


def test_local_names_are_parameters_of_the_template() -> None:
    assert Names.unique("x").parameters().keys() <= PARAMETERS.keys()


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
def test_every_pipeline_has_its_queue_in_the_template(pipeline: Any) -> None:
    title = pipeline.name.capitalize()
    assert PARAMETERS[f"{title}QueueName"]["Default"] == pipeline.queue.removesuffix(".fifo")
    for function in of_type("Lambda::Function").values():
        assert pipeline.queue_variable in function["Environment"]["Variables"]
    outputs = {f"{title}QueueUrl", f"{title}DeadLetterUrl", f"{title}GroupName"}
    assert outputs <= TEMPLATE["Outputs"].keys()


@pytest.mark.parametrize(
    ("owner", "statement"), [pair for pair in statements() if pair[1]["Effect"] == "Allow"]
)
def test_permissions_have_no_wildcards_but_for_what_has_no_name_yet(
    owner: str, statement: Any
) -> None:
    assert not [action for action in listed(statement["Action"]) if "*" in action], owner
    if set(listed(statement["Action"])) <= NOT_NARROWER:
        return
    for text in map(text_of, listed(statement["Resource"])):
        # A group's ARN holds an id that AWS chooses, before its name.
        resource = text.replace(":autoScalingGroup:*:", ":autoScalingGroup:ID:")
        stem = resource.removesuffix("*")
        assert "*" not in stem, resource
        if stem != resource:
            # The objects of one bucket or prefix, the streams of one log group, and the queues
            # and topics that processes make for themselves.
            allowed = (
                "/",
                ":log-group:/aws/lambda/${LambdaName}:",
                ":log-group:/aws/lambda/${ScalingLambdaName}:",
                ":${ControlPrefixName}",
                ":autoScalingGroupName/${GroupPrefixName}",
            )
            assert stem.endswith(allowed), resource
            assert "${" in stem, resource


def test_workers_may_delete_nothing_but_task_results() -> None:
    deleting = [s for _, s in statements() if "s3:DeleteObject" in listed(s["Action"])]
    assert [text_of(s["Resource"]) for s in deleting] == ["${OutputBucket.Arn}/celery/*"]


def test_buckets_refuse_what_comes_without_tls() -> None:
    for bucket in of_type("S3::Bucket"):
        (statement,) = of_type("S3::BucketPolicy")[f"{bucket}Policy"]["PolicyDocument"]["Statement"]
        assert statement["Effect"] == "Deny"
        assert (statement["Principal"], statement["Action"]) == ("*", "s3:*")
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        resources = {text_of(resource) for resource in statement["Resource"]}
        assert resources == {f"${{{bucket}.Arn}}", f"${{{bucket}.Arn}}/*"}


def test_buckets_are_private_encrypted_and_clean_up_after_broken_uploads() -> None:
    for properties in of_type("S3::Bucket").values():
        assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
        assert len(properties["PublicAccessBlockConfiguration"]) == 4
        assert "BucketEncryption" in properties
        rules = properties["LifecycleConfiguration"]["Rules"]
        assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)


def test_upload_events_are_not_filtered() -> None:
    (rule,) = RESOURCES["InputBucket"]["Properties"]["NotificationConfiguration"][
        "LambdaConfigurations"
    ]
    assert rule["Event"] == "s3:ObjectCreated:*"
    assert "Filter" not in rule


def test_only_the_input_bucket_of_this_account_may_invoke_the_lambda() -> None:
    permission = of_type("Lambda::Permission")["LambdaPermission"]
    assert permission["SourceAccount"] == {"Ref": "AWS::AccountId"}
    assert text_of(permission["SourceArn"]).endswith(":::${InputBucketName}")


def test_job_queues_are_fifo_at_high_throughput_with_fifo_dead_letter_queues() -> None:
    queues = of_type("SQS::Queue")
    for name, queue in queues.items():
        own_key, ours = queue["KmsMasterKeyId"]["Fn::If"], queue["SqsManagedSseEnabled"]["Fn::If"]
        assert (own_key[:2], ours[0], ours[2]) == (["HasKey", {"Ref": "KmsKeyArn"}], "HasKey", True)
        assert queue["MessageRetentionPeriod"] == 14 * 24 * 3600
        if "RedrivePolicy" not in queue:
            continue
        assert queue["RedrivePolicy"]["maxReceiveCount"] == 3
        target = queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
        for fifo in (queue, queues[target]):
            assert fifo["FifoQueue"] is True, name
            assert fifo["DeduplicationScope"] == "messageGroup"
            assert fifo["FifoThroughputLimit"] == "perMessageGroupId"
    assert sum("RedrivePolicy" in queue for queue in queues.values()) >= len(PIPELINES)
