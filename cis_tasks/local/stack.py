"""The stack of ``deploy/template.yaml``, made through CloudFormation on whatever endpoint."""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from cis_tasks.local.environment import HOST
from cis_tasks.local.errors import CloudError
from lambda_trigger import package
from scaling import package as scaling_package

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.client import CloudFormationClient
    from mypy_boto3_s3.client import S3Client

HANDLERS = {"CodeKey": package.HANDLER, "ScalingCodeKey": scaling_package.HANDLER}
"""Parameter of the template → handler whose zip it names."""

CAPABILITIES = ("CAPABILITY_NAMED_IAM",)
WAIT_S = 900
STARTS = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS")


@dataclass(frozen=True)
class Names:
    """What the stack's parts are called; those left empty keep the template's default.

    Attributes:
        stack: name of the CloudFormation stack.
        code_bucket: bucket for the Lambda's zip; made where it does not exist.
    """

    stack: str = "cis-tasks"
    code_bucket: str = "cis-tasks-code"
    input_bucket_name: str = ""
    output_bucket_name: str = ""
    spine_queue_name: str = ""
    image_queue_name: str = ""
    undelivered_queue_name: str = ""
    lambda_name: str = ""
    lambda_role_name: str = ""
    worker_role_name: str = ""
    client_policy_name: str = ""
    control_policy_name: str = ""
    control_prefix_name: str = ""
    group_prefix_name: str = ""
    scaling_topic_name: str = ""
    jobs_topic_name: str = ""
    dead_letters_topic_name: str = ""
    worker_log_group_name: str = ""
    scaling_lambda_name: str = ""
    scaling_role_name: str = ""

    @classmethod
    def unique(cls, suffix: str) -> Names:
        """Names that all end in ``suffix``, so that stacks can stand side by side.

        Args:
            suffix: lower-case letters and digits, as bucket names allow.
        """
        return cls(
            stack=f"cis-tasks-{suffix}",
            code_bucket=f"cis-tasks-code-{suffix}",
            input_bucket_name=f"cis-data-input-{suffix}",
            output_bucket_name=f"cis-data-output-{suffix}",
            spine_queue_name=f"CIS_Data_load_in_fifo_{suffix}",
            image_queue_name=f"CIS_Image_requests_{suffix}",
            undelivered_queue_name=f"CIS_S3_events_undelivered_{suffix}",
            lambda_name=f"CIS_S3_Data_Upload_{suffix}",
            lambda_role_name=f"CIS_Lambda_S3_{suffix}",
            worker_role_name=f"CIS_Worker_{suffix}",
            client_policy_name=f"CIS_Client_{suffix}",
            control_policy_name=f"CIS_Control_{suffix}",
            control_prefix_name=f"cis-control-{suffix}-",
            group_prefix_name=f"CIS-{suffix}-",
            scaling_topic_name=f"CIS-EC2-Scaling-{suffix}",
            jobs_topic_name=f"CIS-Jobs-{suffix}",
            dead_letters_topic_name=f"CIS-Dead-Letters-{suffix}",
            worker_log_group_name=f"/cis/workers-{suffix}",
            scaling_lambda_name=f"CIS_Scaling_{suffix}",
            scaling_role_name=f"CIS_Scaling_{suffix}",
        )

    def parameters(self) -> dict[str, str]:
        """The template's parameters for the names that are set."""
        named = (field.name for field in fields(self) if field.name.endswith("_name"))
        given = {name: str(getattr(self, name)) for name in named}
        return {
            "".join(part.capitalize() for part in name.split("_")): value
            for name, value in given.items()
            if value
        }


@dataclass(frozen=True)
class Stack:
    """A stack that stands.

    Attributes:
        name: name of the CloudFormation stack.
        input_bucket: bucket that people upload to.
        output_bucket: bucket that answers come to.
        queue_urls: pipeline → URL of its job queue.
        dead_letter_urls: pipeline → URL of its dead-letter queue.
        groups: pipeline → name of the Auto Scaling group of its workers.
        undelivered_url: URL of the queue of events that the Lambda could not handle.
        function: name of the Lambda.
        log_group: its log group.
        outputs: every output of the template, by its name there.
    """

    name: str
    input_bucket: str
    output_bucket: str
    queue_urls: Mapping[str, str]
    dead_letter_urls: Mapping[str, str]
    groups: Mapping[str, str]
    undelivered_url: str
    function: str
    log_group: str
    outputs: Mapping[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that `cis_tasks.settings` reads."""
        variables = {
            "CIS_INPUT_BUCKET": self.input_bucket,
            "CIS_OUTPUT_BUCKET": self.output_bucket,
            "CIS_CONTROL_PREFIX": self.outputs["ControlPrefix"],
            "CIS_UNDELIVERED_QUEUE": self.undelivered_url.rpartition("/")[2],
        }
        queues = {f"CIS_QUEUE_URL_{name.upper()}": url for name, url in self.queue_urls.items()}
        groups = {f"CIS_SCALING_GROUP_{name.upper()}": group for name, group in self.groups.items()}
        return {**variables, **queues, **groups}


class Deployer:
    """Makes, updates and deletes stacks at one endpoint.

    Args:
        session: whose credentials and region to use; boto3's default chain if None.
        endpoint: where AWS is; what ``AWS_ENDPOINT_URL`` says, or AWS itself, if None.
    """

    def __init__(self, session: boto3.Session | None = None, endpoint: str | None = None) -> None:
        session = session or boto3.Session()
        cloudformation = client(session, "cloudformation", endpoint)
        self._cloudformation = cast("CloudFormationClient", cloudformation)
        self._s3 = cast("S3Client", client(session, "s3", endpoint))

    def deploy(self, names: Names, parameters: Mapping[str, str] | None = None) -> Stack:
        """Create the stack, or bring it up to the template, and wait until it stands.

        Args:
            names: what to call its parts.
            parameters: further parameters of the template.

        Raises:
            CloudError: it could not be made; carries the events that say why.
        """
        try:
            given = {
                # On an emulator readings are published by who runs the fleet, not each minute.
                **({"PublisherState": "DISABLED"} if self._local() else {}),
                **names.parameters(),
                **(parameters or {}),
                **self.upload_code(names.code_bucket),
            }
            self._apply(names.stack, given)
            return self._describe(names.stack)
        except (ClientError, BotoCoreError) as error:
            raise self._error(
                f"The stack {names.stack} could not be made", names.stack, error
            ) from error

    def find(self, name: str) -> Stack:
        """The stack of this name, as it stands.

        Raises:
            CloudError: there is none, or it cannot be read.
        """
        try:
            return self._describe(name)
        except (ClientError, BotoCoreError, KeyError) as error:
            raise CloudError(f"The stack {name} was not found: {error}") from error

    def delete(self, stack: Stack, *, empty_buckets: bool = False) -> None:
        """Delete the stack and wait until it is gone. The code bucket stays.

        Args:
            stack: which.
            empty_buckets: delete first all that the buckets hold, every version; a bucket that
                holds anything is not deleted by CloudFormation, which then fails.

        Raises:
            CloudError: it could not be deleted; carries the events that say why.
        """
        try:
            if empty_buckets:
                self._empty(stack.input_bucket)
                self._empty(stack.output_bucket)
            self._cloudformation.delete_stack(StackName=stack.name)
            self._wait("stack_delete_complete", stack.name)
        except (ClientError, BotoCoreError) as error:
            raise self._error(
                f"The stack {stack.name} could not be deleted", stack.name, error
            ) from error

    def _empty(self, bucket: str) -> None:
        for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for found in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                self._s3.delete_object(
                    Bucket=bucket, Key=found["Key"], VersionId=found["VersionId"]
                )

    def upload_code(self, bucket: str) -> dict[str, str]:
        """Upload the zip of each Lambda; gives the parameters that say where they are.

        Args:
            bucket: where to; made where it does not exist.
        """
        self._ensure_bucket(bucket)
        where = {"CodeBucket": bucket}
        with tempfile.TemporaryDirectory() as folder:
            for parameter, handler in HANDLERS.items():
                built = package.build(Path(folder) / "lambda.zip", handler)
                where[parameter] = f"lambda/{built.sha256}.zip"
                self._s3.upload_file(str(built.path), bucket, where[parameter])
        return where

    def _ensure_bucket(self, bucket: str) -> None:
        try:
            self._s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise
            region = self._s3.meta.region_name
            request: dict[str, Any] = {"Bucket": bucket}
            if region != "us-east-1":  # which S3 refuses to be told
                request["CreateBucketConfiguration"] = {"LocationConstraint": region}
            self._s3.create_bucket(**request)

    def _apply(self, name: str, parameters: Mapping[str, str]) -> None:
        state = self._state(name)
        if state in {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"}:
            self._cloudformation.delete_stack(StackName=name)  # it can be nothing but deleted
            self._wait("stack_delete_complete", name)
            state = None
        request: dict[str, Any] = {
            "StackName": name,
            "TemplateBody": template().read_text(encoding="utf-8"),
            "Capabilities": list(CAPABILITIES),
            "Parameters": [
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
        }
        if state is None:
            self._cloudformation.create_stack(**request, OnFailure="ROLLBACK")
            self._wait("stack_create_complete", name)
        elif self._update(request):
            self._wait("stack_update_complete", name)

    def _update(self, request: Mapping[str, Any]) -> bool:
        try:
            self._cloudformation.update_stack(**request)
        except ClientError as error:
            if "No updates are to be performed" in str(error):
                return False
            raise
        return True

    def _wait(self, until: str, name: str) -> None:
        waiter = self._cloudformation.get_waiter(until)  # type: ignore[call-overload]
        delay = 0.2 if self._local() else 5
        waiter.wait(
            StackName=name, WaiterConfig={"Delay": delay, "MaxAttempts": int(WAIT_S / delay)}
        )

    def _local(self) -> bool:
        return HOST in self._cloudformation.meta.endpoint_url

    def _state(self, name: str) -> str | None:
        try:
            found = self._cloudformation.describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
        state = found[0]["StackStatus"] if found else "DELETE_COMPLETE"
        return None if state == "DELETE_COMPLETE" else state

    def _describe(self, name: str) -> Stack:
        found = self._cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        outputs = {out["OutputKey"]: out["OutputValue"] for out in found.get("Outputs", [])}
        return Stack(
            name=name,
            input_bucket=outputs["InputBucket"],
            output_bucket=outputs["OutputBucket"],
            queue_urls=_by_pipeline(outputs, "QueueUrl"),
            dead_letter_urls=_by_pipeline(outputs, "DeadLetterUrl"),
            groups=_by_pipeline(outputs, "GroupName"),
            undelivered_url=outputs["UndeliveredUrl"],
            function=outputs["LambdaName"],
            log_group=outputs["LambdaLogGroup"],
            outputs=outputs,
        )

    def _error(self, what: str, name: str, error: ClientError | BotoCoreError) -> CloudError:
        if not isinstance(error, WaiterError):
            return CloudError(f"{what}: {error}")
        found = cast("Mapping[str, Any]", error.last_response).get("Stacks") or [{}]
        status = found[0].get("StackStatus", "no known state")
        reasons = "".join(f"\n  {reason}" for reason in self._failures(name))
        return CloudError(f"{what}: it came to {status}.{reasons}")

    def _failures(self, name: str) -> list[str]:
        """What failed in the latest operation on the stack, oldest first."""
        try:
            events = self._cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        except (ClientError, BotoCoreError):
            return []
        failures = []
        for event in events:  # newest first
            status = event.get("ResourceStatus", "")
            reason = event.get("ResourceStatusReason", "")
            if event.get("LogicalResourceId") == name and status in STARTS:
                break
            if status.endswith("FAILED") and "cancelled" not in reason:
                failures.append(f"{event.get('LogicalResourceId')}: {reason}")
        return failures[::-1]


def client(
    session: boto3.Session,
    service: Literal["s3", "sqs", "lambda", "logs", "cloudformation"],
    endpoint: str | None,
) -> Any:
    """A boto3 client that reaches this machine's endpoints whatever proxies are set."""
    on_this_machine = (urlsplit(endpoint or "").hostname or "") in {HOST, "localhost", "::1"}
    config = Config(
        retries={"mode": "standard", "max_attempts": 2 if on_this_machine else 5},
        proxies={} if on_this_machine else None,
    )
    return session.client(service, endpoint_url=endpoint, config=config)


def template() -> Path:
    """The CloudFormation template: the checkout's own, else the one installed with the package.

    Raises:
        CloudError: it is in neither place.
    """
    checkout = Path(__file__).resolve().parents[2] / "deploy" / "template.yaml"
    if checkout.is_file():
        return checkout
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("cis-tasks") or ():
            if file.parts[-2:] == ("deploy", "template.yaml"):
                return Path(str(file.locate())).resolve()
    raise CloudError(
        "The CloudFormation template is missing from this installation of cis-tasks. "
        "Install it with pip, or run it from its checkout."
    )


def _by_pipeline(outputs: Mapping[str, str], suffix: str) -> dict[str, str]:
    """The outputs called ``<Pipeline><suffix>``, by the pipeline's name."""
    return {
        name.removesuffix(suffix).lower(): value
        for name, value in outputs.items()
        if name.endswith(suffix)
    }
