"""What roles may do, held against what was done: recorded calls and IAM's rules for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDER = Path(__file__).parent / "recording"


@dataclass(frozen=True)
class Use:
    """One permission that a call needs.

    Attributes:
        action: as IAM calls it.
        resource: ARN, or ``*`` where AWS asks for none.
        namespace: of CloudWatch's metrics, where it is about them.
        creates: whether it puts an object only where there is none.
    """

    action: str
    resource: str
    namespace: str = ""
    creates: bool = False

    def fulfils(self, condition: str) -> bool:
        """Whether it is what a statement is limited to, as JSON; of those that ours have."""
        return not condition or json.loads(condition) in (
            {"StringEquals": {"cloudwatch:namespace": self.namespace}},
            *([{"Null": {"s3:if-none-match": "false"}}] if self.creates else []),
        )


@dataclass(frozen=True)
class Grant:
    """One action of one statement that allows it."""

    sid: str
    action: str
    resources: tuple[str, ...]
    condition: str = ""

    def allows(self, use: Use) -> bool:
        """Whether it covers ``use``."""
        if self.action.lower() != use.action.lower():
            return False
        return use.fulfils(self.condition) and any(
            _matches(pattern, use.resource) for pattern in self.resources
        )


def grants_of_role(iam: Any, role: str) -> set[Grant]:
    """Everything that a role's own policies allow, without those attached to it."""
    found: set[Grant] = set()
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        found |= _grants(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
    return found


def grants_of_policy(iam: Any, arn: str) -> set[Grant]:
    """Everything that a managed policy allows."""
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    got = iam.get_policy_version(PolicyArn=arn, VersionId=version)
    return _grants(got["PolicyVersion"]["Document"])


def recorded(file: Path) -> set[Use]:
    """The permissions that the recorded calls needed."""
    calls = [json.loads(line) for line in file.read_text().splitlines()]
    return {use for call in calls for use in _uses(call)}


def denied(uses: Iterable[Use], grants: Iterable[Grant]) -> set[Use]:
    """The uses that nothing allows."""
    return {use for use in uses if not any(grant.allows(use) for grant in grants)}


def unused(uses: Iterable[Use], grants: Iterable[Grant]) -> set[tuple[str, str]]:
    """Statement and action of the grants that no use needed."""
    return {(g.sid, g.action) for g in grants if not any(g.allows(use) for use in uses)}


def _grants(document: Any) -> set[Grant]:
    if isinstance(document, str):
        document = json.loads(document)
    return {
        Grant(
            statement["Sid"],
            action,
            tuple(_listed(statement["Resource"])),
            json.dumps(statement["Condition"]) if "Condition" in statement else "",
        )
        for statement in document["Statement"]
        for action in _listed(statement["Action"])
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(pattern: str, text: str) -> bool:
    parts = (".*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", pattern))
    return re.fullmatch("".join(parts), text) is not None


# ------------------------------------------------------------------ calls and what they need
# Source: the service authorization reference,
# https://docs.aws.amazonaws.com/service-authorization/latest/reference/

ACCOUNT = "000000000000"
REGION = "us-east-1"
UPLOADING = {"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"}
READING = {"GetObject", "HeadObject"}
DELETING = {"DeleteObject", "DeleteObjects"}
LISTING = {"ListObjectsV2", "ListObjects", "HeadBucket"}
OF_NOTHING = {"ListQueues", "DescribeAutoScalingGroups", "DescribeScalingActivities"}
FREE = {"GetCallerIdentity"}  # needs no permission


def _uses(call: dict[str, Any]) -> Iterator[Use]:
    service, operation = call["service"], call["operation"]
    if operation in OF_NOTHING:
        yield Use(f"{service}:{operation}", "*")
    elif service == "cloudwatch":
        yield Use(f"cloudwatch:{operation}", "*", call.get("Namespace", ""))
    elif service == "autoscaling":
        name = call["AutoScalingGroupName"]
        arn = _arn("autoscaling", f"autoScalingGroup:id:autoScalingGroupName/{name}")
        yield Use(f"autoscaling:{operation}", arn)
    elif service in OF:
        yield from OF[service](operation, call)
    elif operation not in FREE:
        raise AssertionError(f"{service}:{operation} is not known here: say what it needs")


def _sqs(operation: str, call: dict[str, Any]) -> Iterator[Use]:
    queue = _arn("sqs", call.get("QueueName") or call.get("QueueUrl", "").rpartition("/")[2])
    yield Use(f"sqs:{operation.removesuffix('Batch')}", queue)
    if "tags" in call["given"]:
        yield Use("sqs:TagQueue", queue)


def _sns(operation: str, call: dict[str, Any]) -> Iterator[Use]:
    topic = call.get("TopicArn") or call.get("ResourceArn") or _arn("sns", call.get("Name", ""))
    if operation == "Unsubscribe":
        topic = call["SubscriptionArn"].rpartition(":")[0]
    yield Use(f"sns:{operation}", topic)
    if operation == "CreateTopic" and "Tags" in call["given"]:
        yield Use("sns:TagResource", topic)


def _s3(operation: str, call: dict[str, Any]) -> Iterator[Use]:
    bucket = f"arn:aws:s3:::{call['Bucket']}"
    if operation in LISTING:
        yield Use("s3:ListBucket", bucket)
        return
    target = f"{bucket}/{call['Key']}"
    exact = "Version" if call.get("VersionId") else ""
    if operation in READING:
        yield Use(f"s3:GetObject{exact}", target)
    elif operation in DELETING:
        yield Use(f"s3:DeleteObject{exact}", target)
    else:
        action = "PutObject" if operation in UPLOADING else operation
        yield Use(f"s3:{action}", target, creates="IfNoneMatch" in call["given"])


def _arn(service: str, name: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{name}"


OF = {"s3": _s3, "sns": _sns, "sqs": _sqs}
