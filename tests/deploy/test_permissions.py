"""The template's roles, on an emulator that enforces them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cis_tasks.local import environment as env
from cis_tasks.local.emulator import free_port, health
from cis_tasks.local.environment import HOST
from cis_tasks.local.process import Process
from cis_tasks.local.stack import Deployer, Names, Stack
from cis_tasks.local.workers import Worker
from cis_tasks.pipelines import find
from support.cloud import environment, eventually

Clients = Callable[[str], Any]

REFUSALS = {"AccessDenied", "AccessDeniedException", "403"}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An AWS that checks permissions, in the environment of the tests of this file."""
    folder = tmp_path_factory.mktemp("strict")
    port = free_port()
    settings = {
        "AUTH": "true",
        "BIND_HOST": HOST,
        "MINISTACK_HOST": HOST,
        "GATEWAY_PORT": str(port),
        "TMPDIR": str(folder),
    }
    with environment({}):
        process_environment = {**os.environ, **settings}
    command = [sys.executable, "-m", "ministack"]
    process = Process(command, log=folder / "log", env=process_environment)
    endpoint = f"http://{HOST}:{port}"
    with environment(env.to_emulator(endpoint)):  # as the root of its account
        eventually(lambda: health(endpoint))
        yield
    process.kill()


@pytest.fixture(scope="module")
def stack(strict: None) -> Stack:
    """A stack without the policies that refuse what comes without TLS, as all does here."""
    made = Deployer().deploy(Names.unique("strict"))
    for role in ("LambdaRoleArn", "WorkerRoleArn"):
        allow_batches(made.outputs[role].rpartition("/")[2])
    s3 = boto3.client("s3")
    for bucket in (made.input_bucket, made.output_bucket):
        s3.delete_bucket_policy(Bucket=bucket)
    return made


@pytest.fixture(scope="module")
def files(stack: Stack) -> Stack:
    s3 = boto3.client("s3")
    s3.put_object(Bucket=stack.input_bucket, Key="there", Body=b"1")
    for key in ("there", "celery/there"):
        s3.put_object(Bucket=stack.output_bucket, Key=key, Body=b"1")
    return stack


BATCHES = ("sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility")


def allow_batches(role: str) -> None:
    """Let a role do in batches what it may do.

    AWS asks for sqs:SendMessage in both cases, and likewise for the others; this emulator has a
    permission for each.
    """
    iam = boto3.client("iam")
    documents = [
        iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
    ]
    for policy in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        version = iam.get_policy(PolicyArn=policy["PolicyArn"])["Policy"]["DefaultVersionId"]
        got = iam.get_policy_version(PolicyArn=policy["PolicyArn"], VersionId=version)
        documents.append(got["PolicyVersion"]["Document"])
    for document in documents:
        for statement in document["Statement"]:
            batches = [f"{name}Batch" for name in BATCHES if name in statement["Action"]]
            if batches:
                statement["Action"] = batches
                iam.put_role_policy(
                    RoleName=role,
                    PolicyName=f"{statement.pop('Sid')}Batches",
                    PolicyDocument=json.dumps({**document, "Statement": [statement]}),
                )


def credentials_of(role: str) -> dict[str, str]:
    sts = boto3.client("sts")
    got = sts.assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": got["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": got["SecretAccessKey"],
        "AWS_SESSION_TOKEN": got["SessionToken"],
    }


def as_role(role: str) -> Clients:
    return boto3.Session(**{k.lower(): v for k, v in credentials_of(role).items()}).client


@pytest.fixture(scope="module")
def worker(files: Stack) -> Clients:
    return as_role(files.outputs["WorkerRoleArn"])


@pytest.fixture(scope="module")
def function(files: Stack) -> Clients:
    return as_role(files.outputs["LambdaRoleArn"])


@pytest.fixture(scope="module")
def client(files: Stack) -> Clients:
    iam = boto3.client("iam")
    iam.create_user(UserName="somebody")
    iam.attach_user_policy(UserName="somebody", PolicyArn=files.outputs["ClientPolicyArn"])
    key = iam.create_access_key(UserName="somebody")["AccessKey"]
    return boto3.Session(key["AccessKeyId"], key["SecretAccessKey"]).client


def send(clients: Clients, url: str) -> None:
    clients("sqs").send_message(
        QueueUrl=url,
        MessageBody="1",
        MessageGroupId="g",
        MessageDeduplicationId=str(time.monotonic_ns()),
    )


def refuses(call: Callable[..., object], **arguments: object) -> bool:
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"] in REFUSALS
    return False


def test_buckets_refuse_what_comes_without_tls(strict: None) -> None:
    made = Deployer().deploy(Names.unique("tls"))
    s3 = as_role(made.outputs["WorkerRoleArn"])("s3")
    assert refuses(s3.put_object, Bucket=made.output_bucket, Key="k", Body=b"1")
    assert refuses(s3.list_objects_v2, Bucket=made.input_bucket)


def test_lambda_turns_uploads_into_a_job_with_its_role_alone(stack: Stack) -> None:
    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    for key in ("sensor_data/a.csv", "video_footage/a.mp4"):
        s3.put_object(Bucket=stack.input_bucket, Key=key, Body=b"1")
    url = stack.queue_urls["spine"]
    eventually(lambda: sqs.receive_message(QueueUrl=url, VisibilityTimeout=0).get("Messages"))
    logged = boto3.client("logs").filter_log_events(logGroupName=stack.log_group)["events"]
    assert not [event for event in logged if "AccessDenied" in event["message"]]


def test_lambda_can_do_no_more(function: Clients, files: Stack) -> None:
    s3, sqs = function("s3"), function("sqs")
    there = {"Bucket": files.input_bucket, "Key": "there"}
    assert s3.head_object(**there)["ContentLength"] == 1
    assert refuses(s3.put_object, **there, Body=b"2")
    assert refuses(s3.delete_object, **there)
    assert refuses(s3.get_object, Bucket=files.output_bucket, Key="there")
    assert refuses(sqs.receive_message, QueueUrl=files.queue_urls["spine"])


def test_worker_can_work(worker: Clients, files: Stack) -> None:
    s3, sqs = worker("s3"), worker("sqs")
    for url in files.queue_urls.values():
        send(worker, url)
        (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
        held = {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]}
        sqs.change_message_visibility(**held, VisibilityTimeout=60)
        sqs.delete_message(**held)
        sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        sqs.get_queue_url(QueueName=url.rpartition("/")[2])
    version = s3.head_object(Bucket=files.input_bucket, Key="there")["VersionId"]
    s3.get_object(Bucket=files.input_bucket, Key="there", VersionId=version)
    s3.list_objects_v2(Bucket=files.output_bucket)
    s3.put_object(Bucket=files.output_bucket, Key="new", Body=b"1", IfNoneMatch="*")
    s3.delete_object(Bucket=files.output_bucket, Key="celery/there")


def test_worker_runs_jobs_with_its_role_alone(stack: Stack, tmp_path: Path) -> None:
    variables = {**stack.environment, **credentials_of(stack.outputs["WorkerRoleArn"])}
    started = Worker(
        "strict",
        find("spine").queue,
        environment=env.of_worker(os.environ, variables, 1),
        folder=tmp_path,
    )
    try:
        started.await_ready()
        s3 = boto3.client("s3")
        for key in ("sensor_data/b.csv", "video_footage/b.mp4"):
            s3.put_object(Bucket=stack.input_bucket, Key=key, Body=b"1")
        answers = {"Bucket": stack.output_bucket, "Prefix": "spine/b/"}
        eventually(lambda: s3.list_objects_v2(**answers).get("Contents"))
    finally:
        started.kill()
    refused = [line for line in started.log.read_text().splitlines() if "Denied" in line]
    assert not refused


def test_worker_can_do_no_more(worker: Clients, files: Stack) -> None:
    s3, sqs = worker("s3"), worker("sqs")
    assert refuses(s3.put_object, Bucket=files.input_bucket, Key="there", Body=b"2")
    for bucket in (files.input_bucket, files.output_bucket):
        assert refuses(s3.delete_object, Bucket=bucket, Key="there")
    assert refuses(s3.delete_bucket, Bucket=files.output_bucket)
    assert refuses(sqs.receive_message, QueueUrl=files.dead_letter_urls["spine"])
    assert refuses(sqs.receive_message, QueueUrl=files.undelivered_url)
    assert refuses(sqs.purge_queue, QueueUrl=files.queue_urls["spine"])
    assert refuses(sqs.create_queue, QueueName="more")


def test_client_can_submit_and_read_answers(client: Clients, files: Stack) -> None:
    s3 = client("s3")
    put = s3.put_object(Bucket=files.input_bucket, Key="mine", Body=b"1")
    s3.head_object(Bucket=files.input_bucket, Key="mine", VersionId=put["VersionId"])
    s3.list_objects_v2(Bucket=files.input_bucket)
    s3.get_object(Bucket=files.output_bucket, Key="there")
    for url in files.queue_urls.values():
        send(client, url)
        client("sqs").get_queue_url(QueueName=url.rpartition("/")[2])


def test_client_can_do_no_more(client: Clients, files: Stack) -> None:
    s3, sqs = client("s3"), client("sqs")
    assert refuses(s3.put_object, Bucket=files.output_bucket, Key="there", Body=b"2")
    for bucket in (files.input_bucket, files.output_bucket):
        assert refuses(s3.delete_object, Bucket=bucket, Key="there")
    for url in files.queue_urls.values():
        assert refuses(sqs.receive_message, QueueUrl=url)
        assert refuses(sqs.purge_queue, QueueUrl=url)
