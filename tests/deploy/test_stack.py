"""The template on an emulator: what stands afterwards, and how it changes and goes."""

from __future__ import annotations

import io
import json
import re
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import boto3
import pytest
from botocore.exceptions import ClientError
from cfnlint.decode import cfn_yaml

from cis_tasks.local import stack as module
from cis_tasks.local.cloud import Cloud
from cis_tasks.local.emulator import Emulator, free_port
from cis_tasks.local.errors import CloudError
from cis_tasks.local.stack import Deployer, Names, Stack, template
from lambda_trigger import package
from support.cloud import environment, eventually

TEMPLATE = cfn_yaml.load(str(template()))
CONDITIONS = {"HasSpine", "HasImage", "SpineIsStep", "ImageIsStep"}
"""Those that hold for the parameters' defaults."""

RESOURCES = {
    name: resource
    for name, resource in TEMPLATE["Resources"].items()
    if resource.get("Condition") in {None, *CONDITIONS}
}
KEYS = ["sensor_data/a b.csv", "a+b", "a%20b", "é/日本語.CSV", "x&y=z?#;.csv", "a//b", "./a"]


@pytest.fixture
def deployer(emulator: Emulator) -> Iterator[Deployer]:
    with environment(emulator.environment):
        yield Deployer()


@pytest.fixture
def names() -> Names:
    return Names.unique(uuid.uuid4().hex[:10])


@pytest.fixture
def replace_function(cloud: Cloud) -> Callable[[str], None]:
    """Put other code in the place of the Lambda's."""

    def replace(source: str) -> None:
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("lambda_trigger/__init__.py", "")
            archive.writestr("lambda_trigger/handler.py", source)
        cloud.client("lambda").update_function_code(
            FunctionName=cloud.stack.function, ZipFile=code.getvalue()
        )

    return replace


def standing(name: str) -> dict[str, str]:
    """Logical name → type of everything that a stack has made."""
    pages = boto3.client("cloudformation").get_paginator("list_stack_resources")
    return {
        resource["LogicalResourceId"]: resource["ResourceType"]
        for page in pages.paginate(StackName=name)
        for resource in page["StackResourceSummaries"]
        if resource["ResourceStatus"] in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
    }


def messages(url: str) -> list[Any]:
    got = boto3.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=1)
    return [json.loads(message["Body"]) for message in got.get("Messages", [])]


def log_lines(stack: Stack, containing: str) -> list[str]:
    events = boto3.client("logs").filter_log_events(logGroupName=stack.log_group)["events"]
    return [event["message"] for event in events if containing in event["message"]]


def test_every_resource_of_the_template_is_made(cloud: Cloud) -> None:
    expected = {name: resource["Type"] for name, resource in RESOURCES.items()}
    assert standing(cloud.stack.name) == expected


def test_buckets_keep_versions(cloud: Cloud) -> None:
    s3 = boto3.client("s3")
    for bucket in (cloud.stack.input_bucket, cloud.stack.output_bucket):
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
        first = s3.put_object(Bucket=bucket, Key="k", Body=b"first")["VersionId"]
        s3.put_object(Bucket=bucket, Key="k", Body=b"second")
        assert s3.get_object(Bucket=bucket, Key="k", VersionId=first)["Body"].read() == b"first"


def test_versions_of_inputs_can_be_declined(make_cloud: Any) -> None:
    with make_cloud({"InputVersioning": "Suspended"}) as cloud:
        found = boto3.client("s3").get_bucket_versioning(Bucket=cloud.stack.input_bucket)
        assert found.get("Status") != "Enabled"


def test_manifest_is_written_by_the_first_alone(cloud: Cloud) -> None:
    s3 = boto3.client("s3")
    manifest = {"Bucket": cloud.stack.output_bucket, "Key": "m.json", "IfNoneMatch": "*"}
    s3.put_object(**manifest, Body=b"first")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(**manifest, Body=b"second")


def test_queues_are_those_of_the_environment(cloud: Cloud) -> None:
    sqs = boto3.client("sqs")
    for pipeline, url in cloud.stack.queue_urls.items():
        assert cloud.environment[f"CIS_QUEUE_URL_{pipeline.upper()}"] == url
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert found["FifoQueue"] == "true"
        assert found["VisibilityTimeout"] == "120"
        dead = json.loads(found["RedrivePolicy"])["deadLetterTargetArn"].rpartition(":")[2]
        assert cloud.stack.dead_letter_urls[pipeline].endswith(f"/{dead}")


def test_message_received_three_times_goes_to_the_dead_letter_queue(cloud: Cloud) -> None:
    sqs = boto3.client("sqs")
    url = cloud.stack.queue_urls["spine"]
    sqs.send_message(QueueUrl=url, MessageBody="1", MessageGroupId="g", MessageDeduplicationId="d")
    for _ in range(3):
        (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
        sqs.change_message_visibility(
            QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
    assert messages(url) == []
    assert messages(cloud.stack.dead_letter_urls["spine"]) == [1]


def test_uploads_reach_the_lambda_with_key_version_and_sequence(
    cloud: Cloud, replace_function: Callable[[str], None]
) -> None:
    replace_function("import json\ndef handler(event, context): print('GOT', json.dumps(event))")
    s3 = boto3.client("s3")
    bucket = cloud.stack.input_bucket
    versions = {key: s3.put_object(Bucket=bucket, Key=key, Body=b"1") for key in KEYS}
    eventually(lambda: len(log_lines(cloud.stack, "GOT {")) == len(KEYS))
    events = [json.loads(line.partition("GOT ")[2]) for line in log_lines(cloud.stack, "GOT {")]
    objects = [event["Records"][0]["s3"]["object"] for event in events]
    assert {unquote_plus(o["key"]): o["versionId"] for o in objects} == {
        key: put["VersionId"] for key, put in versions.items()
    }
    assert {o["eTag"] for o in objects} == {put["ETag"].strip('"') for put in versions.values()}
    sequence = {unquote_plus(o["key"]): int(o["sequencer"], 16) for o in objects}
    assert sorted(sequence, key=sequence.__getitem__) == KEYS


def test_event_that_the_lambda_cannot_handle_is_kept(
    cloud: Cloud, replace_function: Callable[[str], None]
) -> None:
    replace_function("def handler(event, context): raise RuntimeError('not today')")
    boto3.client("s3").put_object(Bucket=cloud.stack.input_bucket, Key="lost?", Body=b"1")
    (kept,) = eventually(lambda: messages(cloud.stack.undelivered_url))
    record = kept["requestPayload"]["Records"][0]
    assert record["s3"]["object"]["key"] == "lost%3F"
    assert kept["responsePayload"]["errorMessage"] == "not today"
    assert len(log_lines(cloud.stack, "START")) == 3  # two retries, as the template says


def test_deploying_again_changes_nothing(deployer: Deployer, names: Names) -> None:
    stack = deployer.deploy(names)
    s3, sqs, functions = (boto3.client(name) for name in ("s3", "sqs", "lambda"))
    s3.put_object(Bucket=stack.output_bucket, Key="kept", Body=b"1")
    sqs.send_message(
        QueueUrl=stack.queue_urls["spine"],
        MessageBody="1",
        MessageGroupId="g",
        MessageDeduplicationId="d",
    )
    before = functions.get_function_configuration(FunctionName=stack.function)
    assert deployer.deploy(names) == stack
    after = functions.get_function_configuration(FunctionName=stack.function)
    assert (after["CodeSha256"], after["RevisionId"]) == (
        before["CodeSha256"],
        before["RevisionId"],
    )
    assert s3.get_object(Bucket=stack.output_bucket, Key="kept")["Body"].read() == b"1"
    assert messages(stack.queue_urls["spine"]) == [1]


def test_deploying_with_other_parameters_changes_what_stands(
    deployer: Deployer, names: Names
) -> None:
    deployer.deploy(names)
    stack = deployer.deploy(names, {"VisibilityTimeoutSeconds": "60"})
    found = boto3.client("sqs").get_queue_attributes(
        QueueUrl=stack.queue_urls["spine"], AttributeNames=["VisibilityTimeout"]
    )
    assert found["Attributes"]["VisibilityTimeout"] == "60"


def test_deploying_new_code_replaces_the_function(
    deployer: Deployer, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = deployer.deploy(names)
    functions = boto3.client("lambda")
    before = functions.get_function_configuration(FunctionName=stack.function)["CodeSha256"]
    real = package.sources

    def with_one_more(handler: str) -> dict[str, Path]:
        return {**real(handler), "lambda_trigger/more.py": Path(package.__file__)}

    monkeypatch.setattr(package, "sources", with_one_more)
    deployer.deploy(names)
    after = functions.get_function_configuration(FunctionName=stack.function)["CodeSha256"]
    assert after != before


def test_deleted_stack_leaves_nothing(deployer: Deployer, names: Names) -> None:
    stack = deployer.deploy(names)
    s3 = boto3.client("s3")
    s3.put_object(Bucket=stack.input_bucket, Key="k", Body=b"1")
    s3.put_object(Bucket=stack.input_bucket, Key="k", Body=b"2")
    deployer.delete(stack, empty_buckets=True)
    with pytest.raises(ClientError, match="does not exist"):
        boto3.client("cloudformation").describe_stacks(StackName=stack.name)
    assert not {stack.input_bucket, stack.output_bucket} & {
        bucket["Name"] for bucket in s3.list_buckets()["Buckets"]
    }
    assert not [
        url for url in boto3.client("sqs").list_queues()["QueueUrls"] if url in str(stack.outputs)
    ]


def test_failure_is_explained_and_the_next_attempt_succeeds(
    deployer: Deployer, names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "template.yaml"
    broken.write_text(template().read_text().replace("Qualifier: $LATEST", "Qualifier: nosuch"))
    monkeypatch.setattr(module, "template", lambda: broken)
    with pytest.raises(CloudError) as caught:
        deployer.deploy(names)
    said, why = str(caught.value).splitlines()
    assert said == f"The stack {names.stack} could not be made: it came to ROLLBACK_COMPLETE."
    assert why.startswith("  LambdaRetries: ")
    assert "nosuch" in why
    monkeypatch.setattr(module, "template", template)
    assert standing(deployer.deploy(names).name).keys() == RESOURCES.keys()


def test_endpoint_that_does_not_answer_is_named(names: Names) -> None:
    session = boto3.Session("test", "test", region_name="us-east-1")
    endpoint = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(CloudError, match=re.escape(endpoint)):
        Deployer(session, endpoint).deploy(names)
