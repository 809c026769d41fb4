"""The web stack's role held against what the web tier and Flower do with it, both ways."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from broker.faults import Faulty, faulty
from cis_tasks.local.cloud import Cloud
from cis_tasks.local.emulator import free_port
from cis_tasks.local.process import Process
from support.cloud import eventually
from support.permissions import (
    RECORDER,
    Grant,
    Use,
    denied,
    grants_of_policy,
    grants_of_role,
    recorded,
    unused,
)
from web.running import SECRET, Running, environment_of, image_worker, web_tier
from web.telling_model import picture

ROOT = Path(__file__).parents[2]

WORKERS = "workers, who share the policy CIS_Control: they answer, and remove queues left behind"
EXCEPTIONS = {
    # of the role itself
    "FetchCode s3:GetObject": "the machine's first boot",
    "ReadSecrets ssm:GetParameter": "the machine's first boot",
    "WriteLogs logs:CreateLogStream": "the machine's CloudWatch agent",
    "WriteLogs logs:PutLogEvents": "the machine's CloudWatch agent",
    "SessionManager ssm:UpdateInstanceInformation": "the machine's SSM agent",
    "SessionManager ssmmessages:CreateControlChannel": "the machine's SSM agent",
    "SessionManager ssmmessages:CreateDataChannel": "the machine's SSM agent",
    "SessionManager ssmmessages:OpenControlChannel": "the machine's SSM agent",
    "SessionManager ssmmessages:OpenDataChannel": "the machine's SSM agent",
    "WithdrawImages s3:DeleteObject": "images of a bucket whose versions were declined",
    # of the policies that clients have, too; test_least_privilege.py holds these to all users
    "Upload s3:AbortMultipartUpload": "a client's large upload",
    "FindLeftQueues sqs:ListQueues": WORKERS,
    "OwnQueues sqs:GetQueueUrl": WORKERS,
    "OwnQueues sqs:ListQueueTags": WORKERS,
    "OwnQueues sqs:SendMessage": WORKERS,
    "Submit sqs:GetQueueUrl": "where CIS_QUEUE_URL_<PIPELINE> is not set",
}
"""Statement and action that the run below does not use, and who does."""


@dataclass(frozen=True)
class Role:
    """What the web stack's role may do.

    Attributes:
        own: by its own policy.
        attached: by the policies that it shares with clients and workers.
    """

    own: set[Grant]
    attached: set[Grant]


@pytest.fixture(scope="module")
def role(cloud_of_module: Cloud) -> Role:
    """The role as the stack of deploy/web.yaml makes it."""
    outputs, stack = cloud_of_module.stack.outputs, cloud_of_module.stack
    given = {
        "WebPrefixName": "w" + stack.name[-12:],
        "VpcId": "vpc-1",
        "SubnetIds": "subnet-1",
        "PublicSubnetIds": "subnet-2,subnet-3",
        "ClientPolicyArn": outputs["ClientPolicyArn"],
        "ControlPolicyArn": outputs["ControlPolicyArn"],
        "InputBucketName": stack.input_bucket,
        "OutputBucketName": stack.output_bucket,
        "CodeBucket": "code",
        "WorkerCodeKey": f"worker/{'0' * 64}.tar.gz",
        "ScalingTopicArn": outputs["ScalingTopicArn"],
    }
    cloudformation, iam = boto3.client("cloudformation"), boto3.client("iam")
    name = f"{stack.name}-web"
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=(ROOT / "deploy/web.yaml").read_text(),
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 100}
    )
    made = cloudformation.describe_stack_resource(StackName=name, LogicalResourceId="Role")
    role_name = made["StackResourceDetail"]["PhysicalResourceId"]
    attached = iam.list_attached_role_policies(RoleName=role_name)["AttachedPolicies"]
    return Role(
        own=grants_of_role(iam, role_name),
        attached={grant for one in attached for grant in grants_of_policy(iam, one["PolicyArn"])},
    )


@pytest.fixture(scope="module")
def uses(cloud_of_module: Cloud, tmp_path_factory: pytest.TempPathFactory) -> set[Use]:
    """What a real tier needed for one request of every kind, and when queues or clients fail."""
    folder = tmp_path_factory.mktemp("web-recorded")
    record = folder / "web.calls"
    with (
        image_worker(cloud_of_module, folder),
        faulty(cloud_of_module.endpoint) as aws,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("CIS_RECORD_AWS_CALLS", str(record))
        patch.setenv("PYTHONPATH", os.pathsep.join((str(RECORDER), str(ROOT))))
        with (
            web_tier(
                cloud_of_module,
                folder,
                endpoint=aws.url,
                webhook_secret=SECRET,
                webhook_private=1,
                webhook_attempts=1,
                deadline_s=4,
            ) as tier,
            tier.client() as client,
        ):
            ask_everything(tier, client)
            fail(aws, client)
            tier.process.stop(30)
        watch(cloud_of_module, folder)
    return recorded(record)


def ask_everything(tier: Running, client: httpx.Client) -> None:
    """One request of every kind."""
    for field in ("myfile", "inputFile"):
        answer = client.post("/", files={field: ("a.png", picture(1))})
        assert answer.status_code == 200, answer.text
    for seed in range(10, 20):  # replies are deleted by tens
        waited = client.post("/v1/images", params={"wait": 60}, files=image(seed))
        assert waited.status_code == 200, waited.text
    links = waited.json()["links"]
    accepted = client.post("/v1/images", files=image(3))
    assert accepted.status_code == 202
    ended = client.get(accepted.headers["location"], params={"wait": 60}).json()
    assert ended["status"] == "succeeded"
    client.get(links["events"])
    assert client.get("/v1/jobs").json()["jobs"]
    [output] = client.get(links["results"]).json()["outputs"]
    assert client.get(f"{links['results']}/files/{output['name']}").status_code == 200
    job = upload(client)
    with_hook = {**job, "webhook": "http://127.0.0.1:9/hook"}
    made = client.post("/v1/jobs", json=with_hook)
    assert made.status_code == 202, made.text
    cancelled = client.delete(made.json()["links"]["self"])
    assert cancelled.json()["status"] == "cancelled", cancelled.text
    eventually(lambda: "webhook_given_up" in tier.log)
    late = client.post("/", files={"myfile": ("l.png", picture(4, sleep_s=6))})
    assert late.status_code == 504, late.text


def image(seed: int) -> dict[str, tuple[str, bytes]]:
    return {"image": ("b.png", picture(seed))}


def upload(client: httpx.Client) -> Mapping[str, Any]:
    """Files of a session straight to S3; the job that they make."""
    files = {"s.csv": b"t,x\n", "s.mp4": b"video"}
    asked = [{"filename": name, "size": len(data)} for name, data in files.items()]
    planned = client.post("/v1/uploads", json={"pipeline": "spine", "files": asked})
    assert planned.status_code == 201, planned.text
    plan = planned.json()
    for target in plan["files"]:
        sent = httpx.post(
            target["url"],
            data=target["fields"],
            files={"file": files[target["filename"]]},
            trust_env=False,
        )
        assert sent.status_code == 201, sent.text
    job: Mapping[str, Any] = plan["job"]
    return job


def fail(aws: Faulty, client: httpx.Client) -> None:
    """An image that the queue does not take is withdrawn."""
    aws.fault = lambda operation: "500" if operation == "SendMessageBatch" else None
    assert client.post("/v1/images", files=image(5)).status_code == 503
    aws.fault = lambda _operation: None


def watch(cloud: Cloud, folder: Path) -> None:
    """Flower meets the worker, shows it and the queues, and ends."""
    port, password = free_port(), folder / "password"
    password.write_text("correct-horse")
    options = ["--port", str(port), "--state", str(folder / "state")]
    flower = Process(
        [sys.executable, "-m", "cis_tasks", "flower", *options, "--password-file", str(password)],
        log=folder / "flower.log",
        env=environment_of(cloud),
    )
    url, login = f"http://127.0.0.1:{port}", ("cis", "correct-horse")

    def shown(path: str) -> Any:
        try:
            got = httpx.get(url + path, auth=login, timeout=60, trust_env=False)
        except httpx.TransportError:
            return None
        return got.json() if got.status_code == 200 else None

    try:
        eventually(lambda: any((shown("/api/workers?status=1") or {}).values()))
        eventually(lambda: any("stats" in one for one in shown("/api/workers?refresh=1").values()))
        assert shown("/api/queues/length")["active_queues"]
    finally:
        flower.stop(30)


def test_nothing_that_tier_and_flower_use_is_denied(uses: set[Use], role: Role) -> None:
    assert len(uses) > 10
    assert denied(uses, role.own | role.attached) == set()


def test_nothing_that_they_are_granted_is_unused(uses: set[Use], role: Role) -> None:
    grants = role.own | role.attached
    found = {f"{sid} {action}" for sid, action in unused(uses, grants)}
    assert sorted(found - EXCEPTIONS.keys()) == []
    assert EXCEPTIONS.keys() <= {f"{grant.sid} {grant.action}" for grant in grants}


def test_without_its_own_policy_the_tier_could_not_keep_records(uses: set[Use], role: Role) -> None:
    """The evaluation tells the role apart from a client's."""
    lacking = {use.action for use in denied(uses, role.attached)}
    assert {"s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion"} <= lacking
