"""What instances ask: their metadata service, and the Auto Scaling API with instances in it.

``/<instance-id>/latest/…`` is the metadata service (IMDSv2) of one instance. Everything else is
the Auto Scaling API: what concerns instances is answered here, as the embedded AWS has none; the
rest is passed on to it.
"""

from __future__ import annotations

import http.client
import secrets
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree as ET

from cis_tasks.local.environment import HOST
from cis_tasks.local.fleet.groups import Activity, Group
from cis_tasks.local.fleet.instances import Instance
from scaling.group import DECISION_TAG

NAMESPACE = "http://autoscaling.amazonaws.com/doc/2011-01-01/"
PASSED_ON = ("authorization", "content-type", "x-amz-date", "x-amz-security-token")
TOKENS_KEPT = 100

Parameters = Mapping[str, str]


class RefusedError(Exception):
    """A request that Auto Scaling refuses; becomes its ValidationError."""


class Server:
    """Serves on a free port of 127.0.0.1 while its block lasts.

    Args:
        groups: name → group.
        lock: held while groups are looked at or changed.
        upstream: URL of the embedded AWS.
        changed: called when something should be acted on soon.

    Attributes:
        endpoint: its URL.
    """

    def __init__(
        self,
        groups: Mapping[str, Group],
        lock: threading.RLock,
        upstream: str,
        changed: Callable[[], None],
    ) -> None:
        self._groups, self._lock, self._upstream = groups, lock, upstream
        self._changed = changed
        self._tokens: dict[str, str] = {}
        self._server = _listen(self)
        self.endpoint = f"http://{HOST}:{self._server.server_port}"

    def __enter__(self) -> Server:
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.05,), name="fleet-server", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    # ------------------------------------------------------------------ metadata

    def issue_token(self, instance_id: str) -> str:
        """A token for the metadata of one instance."""
        token = secrets.token_urlsafe(24)
        self._tokens[token] = instance_id
        for old in list(self._tokens)[:-TOKENS_KEPT]:
            del self._tokens[old]
        return token

    def metadata(self, instance_id: str, path: str, token: str | None) -> tuple[int, str]:
        """Status and text of what an instance asks of its metadata."""
        if token is None or self._tokens.get(token) != instance_id:
            return http.client.UNAUTHORIZED, ""
        with self._lock:
            instance = _find(self._groups, instance_id)
            told = instance.metadata() if instance else {}
        found = told.get(path.removeprefix("meta-data/"))
        return (http.client.OK, found) if found is not None else (http.client.NOT_FOUND, "")

    # ------------------------------------------------------------------ Auto Scaling

    def call(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Answer a call of the Auto Scaling API."""
        parameters = dict(parse_qsl(body.decode()))
        action = parameters.get("Action", "")
        own = ACTIONS.get(action)
        try:
            if own is not None:
                with self._lock:
                    answer = own(self._groups, parameters)
                return http.client.OK, _envelope(action, answer)
            if action == "SetDesiredCapacity":
                with self._lock:
                    self._check_capacity(parameters)
            status, content = self._pass_on(body, headers)
            return status, self._seen(action, parameters, content)
        except RefusedError as refusal:
            return http.client.BAD_REQUEST, _refused(str(refusal))
        finally:
            self._changed()

    def _check_capacity(self, parameters: Parameters) -> None:
        """The embedded AWS does not."""
        group = _group(self._groups, parameters)
        desired, plan = int(parameters["DesiredCapacity"]), group.plan
        if not plan.min <= desired <= plan.max:
            raise RefusedError(
                f"New SetDesiredCapacity value {desired} is outside the limits of {plan.min} to "
                f"{plan.max} for the AutoScalingGroup."
            )
        group.tell(f"{plan.desired} → {desired}")

    def _seen(self, action: str, parameters: Parameters, content: bytes) -> bytes:
        """Learn from what was passed on, and put the instances into it."""
        if action == "DescribeAutoScalingGroups":
            with self._lock:
                return _with_instances(content, self._groups)
        if action == "CreateOrUpdateTags":
            group = self._groups.get(parameters.get("Tags.member.1.ResourceId", ""))
            if group is not None and parameters.get("Tags.member.1.Key") == DECISION_TAG:
                group.reason = parameters["Tags.member.1.Value"]
                group.tell(f"because {group.reason}")
        return content

    def _pass_on(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        kept = {name: value for name, value in headers.items() if name.lower() in PASSED_ON}
        request = urllib.request.Request(f"{self._upstream}/", data=body, headers=kept)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


def _listen(fleet: Server) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            instance, _, path = self.path.strip("/").partition("/")
            if path == "latest/api/token":
                self._answer(http.client.OK, fleet.issue_token(instance).encode())
            else:
                self._answer(http.client.NOT_FOUND, b"")

        def do_GET(self) -> None:
            instance, _, path = self.path.strip("/").partition("/latest/")
            token = self.headers.get("X-aws-ec2-metadata-token")
            status, text = fleet.metadata(instance, path, token)
            self._answer(status, text.encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = fleet.call(body, dict(self.headers.items()))
            self._answer(status, content, "text/xml")

        def log_message(self, *_: object) -> None:
            """Nothing: instances ask all the time."""

        def _answer(self, status: int, content: bytes, kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A killed worker leaves its calls behind."""

    return Quiet((HOST, 0), Handler)


# ---------------------------------------------------------------------- what is answered here


def _describe_instances(groups: Mapping[str, Group], parameters: Parameters) -> Any:
    wanted = set(_listed(parameters, "InstanceIds"))
    found = [
        {**_instance(instance), "AutoScalingGroupName": group.name}
        for group in groups.values()
        for instance in group.present
        if not wanted or instance.id in wanted
    ]
    return {"AutoScalingInstances": found}


def _describe_activities(groups: Mapping[str, Group], parameters: Parameters) -> Any:
    group = _group(groups, parameters)
    count = int(parameters.get("MaxRecords") or 100)
    return {"Activities": [_activity(group, one) for one in list(group.activities)[:count]]}


def _set_protection(groups: Mapping[str, Group], parameters: Parameters) -> Any:
    group = _group(groups, parameters)
    instances = [_known(group, name) for name in _listed(parameters, "InstanceIds")]
    for instance in instances:
        if not instance.counts:
            raise RefusedError(
                f"The instance {instance.id} is not in InService or EnteringStandby or Standby."
            )
    for instance in instances:
        instance.protected = parameters.get("ProtectedFromScaleIn") == "true"
    return {}


def _complete_action(groups: Mapping[str, Group], parameters: Parameters) -> Any:
    group = _group(groups, parameters)
    instance = _known(group, parameters.get("InstanceId", ""))
    carry_on = parameters.get("LifecycleActionResult") != "ABANDON"
    if not group.complete(instance, parameters.get("LifecycleHookName", ""), carry_on=carry_on):
        raise RefusedError(f"No active Lifecycle Action found with instance ID {instance.id}")
    return {}


def _record_heartbeat(groups: Mapping[str, Group], parameters: Parameters) -> Any:
    group = _group(groups, parameters)
    instance = _known(group, parameters.get("InstanceId", ""))
    if not group.heartbeat(instance, parameters.get("LifecycleHookName", "")):
        raise RefusedError(f"No active Lifecycle Action found with instance ID {instance.id}")
    return {}


def _terminate(groups: Mapping[str, Group], parameters: Parameters) -> Any:
    """Protection does not keep from this, as on AWS."""
    instance = _find(groups, parameters.get("InstanceId", ""))
    if instance is None or not instance.counts:
        raise RefusedError(f"The instance {parameters.get('InstanceId')} is not in a group.")
    if parameters.get("ShouldDecrementDesiredCapacity") == "true":
        raise RefusedError("The laptop fleet replaces it; set the desired capacity to have fewer.")
    groups[instance.group].terminate(instance, "a user asked for it")
    return {}


ACTIONS: Mapping[str, Callable[[Mapping[str, Group], Parameters], Any]] = {
    "CompleteLifecycleAction": _complete_action,
    "DescribeAutoScalingInstances": _describe_instances,
    "DescribeScalingActivities": _describe_activities,
    "RecordLifecycleActionHeartbeat": _record_heartbeat,
    "SetInstanceProtection": _set_protection,
    "TerminateInstanceInAutoScalingGroup": _terminate,
}


def _group(groups: Mapping[str, Group], parameters: Parameters) -> Group:
    name = parameters.get("AutoScalingGroupName", "")
    if name not in groups:
        raise RefusedError(f"AutoScalingGroup name not found - {name} not found")
    return groups[name]


def _known(group: Group, instance_id: str) -> Instance:
    instance = group.find(instance_id)
    if instance is None:
        raise RefusedError(
            f"The instance {instance_id} is not part of Auto Scaling group {group.name}."
        )
    return instance


def _find(groups: Mapping[str, Group], instance_id: str) -> Instance | None:
    found = (group.find(instance_id) for group in groups.values())
    return next((instance for instance in found if instance), None)


def _listed(parameters: Parameters, name: str) -> list[str]:
    prefix = f"{name}.member."
    return [value for key, value in parameters.items() if key.startswith(prefix)]


def _instance(instance: Instance) -> dict[str, Any]:
    return {
        "InstanceId": instance.id,
        "AvailabilityZone": instance.zone,
        "LifecycleState": str(instance.state),
        "HealthStatus": "Healthy",
        "ProtectedFromScaleIn": instance.protected,
    }


def _activity(group: Group, activity: Activity) -> dict[str, Any]:
    ended = {} if activity.ended_s is None else {"EndTime": _time(activity.ended_s)}
    return {
        "ActivityId": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{activity.started_s} {activity}")),
        "AutoScalingGroupName": group.name,
        "Description": activity.description,
        "Cause": activity.cause,
        "StartTime": _time(activity.started_s),
        "StatusCode": activity.status,
        **ended,
    }


# ---------------------------------------------------------------------- XML


def _with_instances(content: bytes, groups: Mapping[str, Group]) -> bytes:
    """An answer of DescribeAutoScalingGroups with the instances that there are."""
    ET.register_namespace("", NAMESPACE)
    root = ET.fromstring(content)  # noqa: S314  from our own emulator
    name = f"{{{NAMESPACE}}}"
    for member in root.iterfind(f".//{name}AutoScalingGroups/{name}member"):
        group = groups.get(member.findtext(f"{name}AutoScalingGroupName", ""))
        theirs = member.find(f"{name}Instances")
        if group is None:
            continue
        if theirs is not None:
            member.remove(theirs)
        ours = [_instance(instance) for instance in group.present]
        _add(member, f"{name}Instances", ours, name)
    return ET.tostring(root)


def _add(parent: ET.Element, tag: str, value: Any, prefix: str = "") -> None:
    """Write a value as the query protocol does: lists as ``member``, mappings as elements."""
    element = ET.SubElement(parent, tag)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _add(element, f"{prefix}{key}", inner, prefix)
    elif isinstance(value, list):
        for inner in value:
            _add(element, f"{prefix}member", inner, prefix)
    elif isinstance(value, bool):
        element.text = str(value).lower()
    else:
        element.text = str(value)


def _envelope(action: str, result: Any) -> bytes:
    root = ET.Element(f"{action}Response", xmlns=NAMESPACE)
    _add(root, f"{action}Result", result)
    _add(root, "ResponseMetadata", {"RequestId": uuid.uuid4()})
    return ET.tostring(root)


def _refused(message: str) -> bytes:
    root = ET.Element("ErrorResponse", xmlns=NAMESPACE)
    _add(root, "Error", {"Type": "Sender", "Code": "ValidationError", "Message": message})
    _add(root, "RequestId", uuid.uuid4())
    return ET.tostring(root)


def _time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
