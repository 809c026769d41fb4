"""Each role held against what its component did: nothing used is denied, nothing granted unused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from cis_tasks.local.cloud import Cloud
from cis_tasks.local.environment import of_worker
from cis_tasks.local.workers import Worker
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

TESTS = Path(__file__).parents[1]
LAMBDA = "import sys, json; from {0} import handler; handler(json.load(sys.stdin), None)"

EXCEPTIONS = {
    "lambda": {
        # The Lambda service does these in the role's name, after our code.
        "KeepUndelivered sqs:SendMessage": "Lambda's on-failure destination",
        "WriteLogs logs:CreateLogStream": "Lambda's log",
        "WriteLogs logs:PutLogEvents": "Lambda's log",
        "ReadInputVersions s3:GetObject": "inputs of a bucket whose versions were declined",
        "ReadInputVersions s3:GetObjectVersion": "inputs whose parameters travel with the upload",
    },
    "publisher": {
        "WriteLogs logs:CreateLogStream": "Lambda's log",
        "WriteLogs logs:PutLogEvents": "Lambda's log",
    },
    "worker": {
        "WriteOutputs s3:AbortMultipartUpload": "a large output whose upload breaks off",
        "WriteOutputs s3:GetObjectVersion": "the files of a job that has ended before",
        "ReadInputs s3:GetObject": "inputs of a bucket whose versions were declined",
        "ListBuckets s3:ListBucket": "turns a missing object's 403 into a 404",
        "WorkThroughQueues sqs:GetQueueUrl": "where CIS_QUEUE_URL_<PIPELINE> is not set",
        "OwnMachine autoscaling:CompleteLifecycleAction": "on EC2 alone",
        "OwnMachine autoscaling:RecordLifecycleActionHeartbeat": "on EC2 alone",
        "OwnMachine autoscaling:SetInstanceProtection": "on EC2 alone",
        "TellOfJobs sns:Publish": "where CIS_TOPIC_JOBS is set",
        "FetchCode s3:GetObject": "the machine's first boot",
        "WriteLogs logs:CreateLogStream": "the machine's CloudWatch agent",
        "WriteLogs logs:PutLogEvents": "the machine's CloudWatch agent",
        "MeasureGpus cloudwatch:PutMetricData": "the machine's CloudWatch agent",
        "SessionManager ssm:UpdateInstanceInformation": "the machine's SSM agent",
        "SessionManager ssmmessages:CreateControlChannel": "the machine's SSM agent",
        "SessionManager ssmmessages:CreateDataChannel": "the machine's SSM agent",
        "SessionManager ssmmessages:OpenControlChannel": "the machine's SSM agent",
        "SessionManager ssmmessages:OpenDataChannel": "the machine's SSM agent",
        "ForgetTaskResults s3:DeleteObject": "AsyncResult.forget()",
    },
    "client": {
        "Upload s3:AbortMultipartUpload": "a large upload that breaks off",
        "Upload s3:GetObjectVersion": "jobs made of versions that are named",
        "Submit sqs:GetQueueUrl": "where CIS_QUEUE_URL_<PIPELINE> is not set",
    },
    "control": {},
}
"""Component → statement and action that the run below does not use, and who does."""


class Components:
    """Real processes of each component, whose calls are recorded."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud, self.folder = cloud, folder

    def record(self, name: str) -> Path:
        return self.folder / f"{name}.calls"

    def environment(self, name: str, **variables: str) -> dict[str, str]:
        base = of_worker(os.environ, self.cloud.environment, 1)
        path = [str(RECORDER), str(TESTS), base["PYTHONPATH"]]
        return {
            **base,
            "PYTHONPATH": os.pathsep.join(path),
            "CIS_RECORD_AWS_CALLS": str(self.record(name)),
            "CIS_RETRY_BACKOFF_S": "0.2",
            **variables,
        }

    def run(self, name: str, *arguments: str, given: object = None, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.environment(name, **variables),
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def components(cloud_of_module: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Every component, after it has done its work once."""
    made = Components(cloud_of_module, tmp_path_factory.mktemp("recorded"))
    worker: Worker | None = None
    try:
        worker = _start_worker(made)
        _submit_and_fetch(made)
        _upload(made)
        worker.stop()
        _scale(made)
        yield made
    finally:
        if worker is not None:
            worker.kill()


def _scale(made: Components) -> None:
    """The publisher sees a backlog, and sets a capacity."""
    sqs, stack = boto3.client("sqs"), made.cloud.stack
    for batch in range(40):
        ids = [f"{batch}-{number}" for number in range(10)]
        entries = [
            {"Id": i, "MessageBody": "{}", "MessageGroupId": i, "MessageDeduplicationId": i}
            for i in ids
        ]
        sqs.send_message_batch(QueueUrl=stack.queue_urls["spine"], Entries=entries)
    settings = {
        "CIS_SCALING_POLICY": "slo",
        "CIS_SCALING_TICKS": "2",
        "CIS_SCALING_EVERY_S": "1",
        "CIS_TOPIC_SCALING": stack.outputs["ScalingTopicArn"],
    }
    made.run("publisher", "-c", LAMBDA.format("scaling.handler"), given={}, **settings)


def _start_worker(made: Components) -> Worker:
    """A worker whose leases run out soon, so that it extends them."""
    boto3.client("sqs").set_queue_attributes(
        QueueUrl=made.cloud.stack.queue_urls["spine"], Attributes={"VisibilityTimeout": "4"}
    )
    worker = Worker(
        "recorded",
        "CIS_Data_load_in_fifo.fifo",
        environment=made.environment("worker"),
        folder=made.folder,
        app="support.scripted",
    )
    worker.await_ready()
    return worker


def _session(made: Components, name: str, **script: Any) -> list[Path]:
    """The two files of a session whose first attempt fails."""
    sensors, video = made.folder / f"{name}.csv", made.folder / f"{name}.mp4"
    sensors.write_text(json.dumps({"runs": str(made.folder / f"{name}.runs"), **script}))
    video.write_bytes(b"video")
    return [sensors, video]


def _submit_and_fetch(made: Components) -> None:
    """A client submits, waits for a job that is tried twice, downloads, and asks the workers."""
    files = [str(file) for file in _session(made, "a", fail=1, sleep_s=2)]
    cis = ("-m", "cis_tasks")
    told = made.run("client", *cis, "submit", *files, "--wait", "--json", "--timeout", "60")
    job = json.loads(told)["job_id"]
    made.run("client", *cis, "results", job, "--to", str(made.folder / "answers"))
    made.run("client", *cis, "status", "--json")
    waiting = f"import cis_tasks; print(cis_tasks.submit('spine', {files!r}).get(timeout=180))"
    made.run("client", "-c", waiting)
    made.run("client", "-m", "celery", "-A", "cis_tasks", "inspect", "ping", "--timeout", "10")


def _upload(made: Components) -> None:
    """The Lambda is told of a complete upload."""
    s3, bucket = boto3.client("s3"), made.cloud.stack.input_bucket
    for file, prefix in zip(_session(made, "b"), ("sensor_data", "video_footage"), strict=True):
        put = s3.put_object(Bucket=bucket, Key=f"{prefix}/{file.name}", Body=file.read_bytes())
    event = json.loads((TESTS / "events" / "s3_put.json").read_text())
    of = event["Records"][0]["s3"]
    of["bucket"]["name"] = bucket
    of["object"].update(key="video_footage/b.mp4", versionId=put["VersionId"])
    made.run("lambda", "-c", LAMBDA.format("lambda_trigger.handler"), given=event)
    answers = {"Bucket": made.cloud.stack.output_bucket, "Prefix": "spine/b/"}
    eventually(lambda: s3.list_objects_v2(**answers).get("Contents"))


@pytest.fixture(scope="module")
def grants(components: Components) -> dict[str, set[Grant]]:
    """Component → what its role in the stack allows; ``control`` is workers' and clients'."""
    iam, outputs = boto3.client("iam"), components.cloud.stack.outputs
    roles = {
        "lambda": outputs["LambdaRoleArn"].rpartition("/")[2],
        "worker": outputs["WorkerRoleArn"].rpartition("/")[2],
        "publisher": outputs["ScalingRoleArn"].rpartition("/")[2],
    }
    return {
        **{component: grants_of_role(iam, role) for component, role in roles.items()},
        "client": grants_of_policy(iam, outputs["ClientPolicyArn"]),
        "control": grants_of_policy(iam, outputs["ControlPolicyArn"]),
    }


@pytest.mark.parametrize("component", ["lambda", "publisher", "worker", "client"])
def test_nothing_that_is_used_is_denied(
    components: Components, grants: dict[str, set[Grant]], component: str
) -> None:
    uses = recorded(components.record(component))
    assert len(uses) > 2
    attached = grants["control"] if component in {"worker", "client"} else set()
    assert denied(uses, grants[component] | attached) == set()


@pytest.mark.parametrize("component", EXCEPTIONS)
def test_nothing_that_is_granted_is_unused(
    components: Components, grants: dict[str, set[Grant]], component: str
) -> None:
    who = ("worker", "client") if component == "control" else (component,)
    uses = {use for name in who for use in recorded(components.record(name))}
    found = {f"{sid} {action}" for sid, action in unused(uses, grants[component])}
    assert found - EXCEPTIONS[component].keys() == set()
    granted = {f"{grant.sid} {grant.action}" for grant in grants[component]}
    assert EXCEPTIONS[component].keys() <= granted  # no exception outlives its grant


def test_evaluator_refuses_what_is_not_granted() -> None:
    mine = Grant("Own", "s3:GetObject", ("arn:aws:s3:::mine/*",))
    read = Use("s3:GetObject", "arn:aws:s3:::mine/a")
    others = {Use("s3:GetObject", "arn:aws:s3:::other/a"), Use("s3:PutObject", read.resource)}
    assert denied({read, *others}, {mine}) == others
    assert unused(others, {mine}) == {("Own", "s3:GetObject")}
    bound = Grant(
        "P",
        "cloudwatch:PutMetricData",
        ("*",),
        '{"StringEquals": {"cloudwatch:namespace": "CIS/Scaling"}}',
    )
    metric = Use("cloudwatch:PutMetricData", "*", "Elsewhere")
    assert denied({metric}, {bound}) == {metric}
