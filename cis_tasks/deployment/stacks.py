"""CloudFormation by change sets: nothing changes before somebody has seen what would."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from cis_tasks.local.errors import CloudError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.client import CloudFormationClient

CAPABILITIES = ("CAPABILITY_IAM", "CAPABILITY_NAMED_IAM")
TAGS = {"project": "cis-tasks"}
"""On every stack, and so on all that it makes; the budget counts what carries it."""

LACKING = re.compile(r"Parameters: \[([^]]+)\] must have values|Parameter '(\w+)' has no Default")
NOTHING = ("didn't contain changes", "No updates are to be performed")
WAIT_S = 3600


class LackingError(CloudError):
    """A stack needs a parameter that nobody gives; says which."""


@dataclass(frozen=True)
class Change:
    """What would become of one resource.

    Attributes:
        action: Add, Modify or Remove.
        name: its logical name.
        kind: its type.
        replacement: whether it would be made anew: True, False, Conditional or empty.
    """

    action: str
    name: str
    kind: str
    replacement: str


@dataclass(frozen=True)
class Plan:
    """A change set that waits to be carried out or dropped.

    Attributes:
        stack: name of the stack.
        change_set: its ARN.
        creates: whether the stack does not stand yet.
        changes: what it would do; none where all is as it should be.
    """

    stack: str
    change_set: str
    creates: bool
    changes: tuple[Change, ...]


class Stacks:
    """The stacks of one account and region.

    Args:
        client: boto3's client of CloudFormation.
        delay_s: wait between two looks at what is under way.
    """

    def __init__(self, client: CloudFormationClient, delay_s: float = 5) -> None:
        self._client = client
        self._delay_s = delay_s

    def declared(self, template: str) -> set[str]:
        """The parameters that a template takes.

        Raises:
            CloudError: it is not a template.
        """
        try:
            found = self._client.get_template_summary(TemplateBody=template)["Parameters"]
        except (ClientError, BotoCoreError) as error:
            raise CloudError(f"CloudFormation does not take the template: {error}") from error
        return {parameter["ParameterKey"] for parameter in found}

    def outputs(self, stack: str) -> dict[str, str]:
        """The outputs of a stack; none where it does not stand."""
        found = self._describe(stack)
        return {out["OutputKey"]: out["OutputValue"] for out in (found or {}).get("Outputs", [])}

    def names(self, stack: str) -> dict[str, str]:
        """The parameters of a stack on which others have to agree; none where it does not stand."""
        given = {
            parameter["ParameterKey"]: parameter["ParameterValue"]
            for parameter in (self._describe(stack) or {}).get("Parameters", [])
        }
        return {k: v for k, v in given.items() if k.endswith("Name") or k == "Pipelines"}

    def plan(self, stack: str, template: str, parameters: Mapping[str, str]) -> Plan:
        """Have CloudFormation work out what would change.

        Parameters that are not given keep the values that the stack has.

        Raises:
            LackingError: a parameter without a default is not given.
            CloudError: it refuses otherwise; says why.
        """
        standing = self._standing(stack) is not None
        kept, names = self._kept(stack), self.declared(template)
        given: list[Any] = [
            {"ParameterKey": name, "ParameterValue": value}
            for name, value in sorted(parameters.items())
            if name in names
        ]
        given += [
            {"ParameterKey": name, "UsePreviousValue": True}
            for name in sorted((names & kept).difference(parameters))
        ]
        try:
            made = self._client.create_change_set(
                StackName=stack,
                ChangeSetName=f"cis-deploy-{uuid.uuid4().hex[:12]}",
                ChangeSetType="UPDATE" if standing else "CREATE",
                TemplateBody=template,
                Parameters=given,
                Capabilities=list(CAPABILITIES),  # type: ignore[arg-type]
                Tags=[{"Key": key, "Value": value} for key, value in TAGS.items()],
            )
            plan = Plan(stack, made["Id"], not standing, ())
            return Plan(stack, made["Id"], not standing, self._changes(plan))
        except (ClientError, BotoCoreError) as error:
            if lacking := LACKING.search(str(error)):
                raise LackingError(
                    f"The stack {stack} needs {lacking[1] or lacking[2]}: "
                    "an output of a stack before it, or --set NAME=VALUE."
                ) from error
            raise CloudError(f"The stack {stack} cannot be planned: {error}") from error

    def apply(self, plan: Plan) -> None:
        """Carry a plan out, and wait until it is done.

        Raises:
            CloudError: it failed; carries the events that say why.
        """
        kind = "create" if plan.creates else "update"
        try:
            self._client.execute_change_set(ChangeSetName=plan.change_set, StackName=plan.stack)
            self._wait(f"stack_{kind}_complete", StackName=plan.stack)
        except (ClientError, BotoCoreError) as error:
            told = "".join(f"\n  {line}" for line in self._failures(plan.stack))
            raise CloudError(f"The stack {plan.stack} came to no end: {error}{told}") from error

    def drop(self, plan: Plan) -> None:
        """Forget a plan; a stack that was only planned is gone as well."""
        self._client.delete_change_set(ChangeSetName=plan.change_set, StackName=plan.stack)
        if plan.creates:
            self._client.delete_stack(StackName=plan.stack)

    def _changes(self, plan: Plan) -> tuple[Change, ...]:
        where = {"ChangeSetName": plan.change_set, "StackName": plan.stack}
        try:
            self._wait("change_set_create_complete", **where)
        except WaiterError as error:
            last: Any = error.last_response
            if any(text in last.get("StatusReason", "") for text in NOTHING):
                return ()
            raise CloudError(
                f"The stack {plan.stack} cannot be planned: {last.get('StatusReason', error)}"
            ) from error
        pages = self._client.get_paginator("describe_change_set").paginate(
            ChangeSetName=plan.change_set, StackName=plan.stack
        )
        found = [one["ResourceChange"] for page in pages for one in page.get("Changes", [])]
        return tuple(
            Change(
                one["Action"],
                one["LogicalResourceId"],
                one["ResourceType"],
                one.get("Replacement", ""),
            )
            for one in found
        )

    def _wait(self, until: str, **what: str) -> None:
        waiter: Any = self._client.get_waiter(until)  # type: ignore[call-overload]
        attempts = int(WAIT_S / self._delay_s)
        waiter.wait(**what, WaiterConfig={"Delay": self._delay_s, "MaxAttempts": attempts})

    def _kept(self, stack: str) -> set[str]:
        """The parameters that an update can leave as they are."""
        return {p["ParameterKey"] for p in (self._standing(stack) or {}).get("Parameters", [])}

    def _standing(self, stack: str) -> Any:
        """The stack, unless it was only planned."""
        found = self._describe(stack)
        return None if found and found["StackStatus"] == "REVIEW_IN_PROGRESS" else found

    def _describe(self, stack: str) -> Any:
        try:
            found = self._client.describe_stacks(StackName=stack)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise CloudError(f"The stack {stack} cannot be read: {error}") from error
        except BotoCoreError as error:
            raise CloudError(f"The stack {stack} cannot be read: {error}") from error
        return found[0] if found and found[0]["StackStatus"] != "DELETE_COMPLETE" else None

    def _failures(self, stack: str) -> list[str]:
        try:
            events = self._client.describe_stack_events(StackName=stack)["StackEvents"]
        except (ClientError, BotoCoreError):
            return []
        return [
            f"{event.get('LogicalResourceId')}: {event.get('ResourceStatusReason', '')}"
            for event in events
            if event.get("ResourceStatus", "").endswith("FAILED")
        ][:10][::-1]
