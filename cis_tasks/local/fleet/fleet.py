"""The fleet: the groups of a running stack, moved on by its own alarms and policies."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.errors import CisError
from cis_tasks.local import environment as env
from cis_tasks.local.cloud import Cloud
from cis_tasks.local.errors import CloudError
from cis_tasks.local.fleet.actions import Actions, Change, Policy
from cis_tasks.local.fleet.alarms import Look, Watch, concerns
from cis_tasks.local.fleet.groups import Group, Hook, Plan, stop_all
from cis_tasks.local.fleet.instances import Instance
from cis_tasks.local.fleet.server import Server
from cis_tasks.local.process import Process
from cis_tasks.local.workers import Worker
from cis_tasks.pipelines import PIPELINES, find
from cis_tasks.worker.command import jobs_at_once, pool_options
from scaling.alarms import State
from scaling.backlog import Backlog, read_backlog
from scaling.group import set_desired
from scaling.settings import POLICIES

TICK_S = 0.25
DOCUMENTS_S = 5.0
SAMPLE_S = 1.0
METRIC_PERIOD_S = 10
"""Period of the alarms on a laptop: the shortest that CloudWatch has."""

DISTURBANCES = (ClientError, BotoCoreError, CisError, OSError)
"""What may go wrong for a while."""


@dataclass(frozen=True)
class Pace:
    """How quick a fleet is; on AWS most of it is fixed.

    Attributes:
        boot_s: from launch to the start of the worker, which takes its own time on top.
        shutdown_s: from SIGTERM to SIGKILL of a worker whose machine shuts down.
        publish_s: from one reading to the next.
        evaluate_s: how often alarms are evaluated.
        again_s: an alarm that stays on acts again after so long (AWS: 60 s).
        tracking_periods: of target tracking's alarms, high and low (AWS: 3 and 15).
        drain_poll_s: how often workers ask their machine's metadata.
        hold_s: how long an idle instance stays protected from scale-in.

    Raises:
        CloudError: a time makes no sense.
    """

    boot_s: float = 5.0
    shutdown_s: float = 30.0
    publish_s: float = 1.0
    evaluate_s: float = 1.0
    again_s: float = 10.0
    tracking_periods: tuple[int, int] = (2, 3)
    drain_poll_s: float = 1.0
    hold_s: float = 2.0

    def __post_init__(self) -> None:
        times = (self.shutdown_s, self.evaluate_s, self.again_s, self.drain_poll_s)
        fine = self.boot_s >= 0 and self.hold_s >= 0 and all(0 < t < math.inf for t in times)
        if not fine or self.publish_s < 1:
            raise CloudError(f"No fleet can run at {self}. Use positive times, readings ≥ 1 s.")


@dataclass(frozen=True)
class Options:
    """What a fleet runs.

    Attributes:
        policy: ``step``, ``target`` or ``slo``; the stack must have been made for it.
        pace: how quick it is.
        pipelines: those whose groups it runs; all that are registered if empty.
        app: the workers' Celery app.
        variables: further environment variables of publisher and workers.

    Raises:
        CloudError: there is no such policy.
    """

    policy: str = "step"
    pace: Pace = field(default_factory=Pace)
    pipelines: tuple[str, ...] = ()
    app: str = "cis_tasks"
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise CloudError(
                f"There is no scaling policy {self.policy!r}; use {', '.join(POLICIES)}."
            )


def stack_parameters(policy: str, minimum: int, maximum: int) -> dict[str, str]:
    """The template's parameters for a stack that a fleet shall run.

    Raises:
        CloudError: the limits make no sense.
    """
    if not 0 <= minimum <= maximum or maximum < 1:
        raise CloudError(
            f"A fleet cannot have at least {minimum} and at most {maximum} instances. "
            "Use 0 ≤ min ≤ max and a max of at least 1."
        )
    return {
        "ScalingPolicy": policy,
        "MinInstances": str(minimum),
        "MaxInstances": str(maximum),
        "MetricPeriodSeconds": str(METRIC_PERIOD_S),
        "WarmupSeconds": "0",  # an instance in service is ready: its worker said so
    }


@dataclass(frozen=True)
class Sample:
    """A group and its queue at one moment.

    Attributes:
        time_s: seconds since the fleet's start.
        visible: messages that wait.
        in_flight: messages held by workers.
        in_service: instances that take jobs.
        pending: instances that start.
        leaving: instances that finish their last job.
        desired: how many the group wants.
    """

    time_s: float
    visible: int
    in_flight: int
    in_service: int
    pending: int
    leaving: int
    desired: int


class Fleet:
    """The groups of one cloud; made by `start`.

    Attributes:
        cloud: where it runs.
        groups: pipeline → group.
        looks: newest look at each alarm, by name.
        samples: pipeline → one sample a second since the start.
    """

    def __init__(self, cloud: Cloud, options: Options) -> None:
        self.cloud, self.options = cloud, options
        chosen = options.pipelines or tuple(
            name for name in cloud.stack.groups if name in PIPELINES
        )
        pace = options.pace
        self.groups = {
            pipeline: Group(
                cloud.stack.groups[pipeline],
                self._launch,
                boot_s=pace.boot_s,
                shutdown_s=pace.shutdown_s,
                tell=cloud.tell,
            )
            for pipeline in chosen
        }
        self.looks: dict[str, Look] = {}
        self.samples: dict[str, list[Sample]] = {pipeline: [] for pipeline in chosen}
        self._by_name = {group.name: group for group in self.groups.values()}
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._server = Server(self._by_name, self._lock, cloud.endpoint, self._wake.set)
        self._actions = Actions(pace.again_s)
        self._watches: list[Watch] = []
        self._policies: dict[str, Policy] = {}
        self._hooks: dict[str, dict[str, Hook]] = {}
        self._at_max: set[str] = set()
        self._publisher: Process | None = None
        self._disturbance = ""
        self._begun_s = time.monotonic()
        self._next_s = dict.fromkeys(("documents", "alarms", "samples"), 0.0)
        # The embedded AWS for documents; the fleet's own API where instances count.
        self._autoscaling = self._client("autoscaling", cloud.endpoint)
        self._cloudwatch = self._client("cloudwatch", cloud.endpoint)
        self._sqs = self._client("sqs", cloud.endpoint)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead to the cloud and the fleet's API, and tell how it is scaled."""
        slots = {f"CIS_SCALING_SLOTS_{n.upper()}": str(jobs_at_once(find(n))) for n in self.groups}
        return {
            **self.cloud.environment,
            **slots,
            "AWS_ENDPOINT_URL_AUTO_SCALING": self._server.endpoint,
            "CIS_SCALING_POLICY": self.options.policy,
            "CIS_SCALING_BOOT_S": str(self.options.pace.boot_s + 5.0),
        }

    def instances(self, pipeline: str) -> list[Instance]:
        """Instances of a pipeline that have not ended, oldest first."""
        with self._lock:
            return list(self.groups[pipeline].present)

    def interrupt(self, instance: Instance, notice_s: float = 120.0) -> None:
        """Announce a spot interruption; after ``notice_s`` the machine is switched off."""
        with self._lock:
            instance.spot_end_s = time.time() + notice_s
        self.cloud.tell(f"{instance.group} {instance.id} will be interrupted in {notice_s:.0f} s")

    def advise(self, instance: Instance) -> None:
        """Recommend to replace an instance, as EC2 does before it may interrupt it."""
        with self._lock:
            instance.advised_s = time.time()
        self.cloud.tell(f"{instance.group} {instance.id} should be replaced")

    def run(self) -> None:
        """Move on until stopped; an AWS error is told and does not end it."""
        while not self._stop.is_set():
            self._wake.wait(TICK_S)
            self._wake.clear()
            try:
                self._tick()
            except DISTURBANCES as error:
                self._disturbed(f"fleet: {error}")
                self._stop.wait(1.0)

    @contextmanager
    def running(self) -> Iterator[Fleet]:
        """Serve instances, publish readings and act on alarms while the block lasts."""
        with ExitStack() as down:
            down.enter_context(self._server)
            down.callback(self._end)
            self._publisher = self._publish()
            down.callback(self._stop_publishing)
            thread = threading.Thread(target=self.run, name="fleet", daemon=True)
            thread.start()
            down.callback(thread.join, 60.0)
            down.callback(self._stop.set)
            yield self

    # ------------------------------------------------------------------ one tick

    def _tick(self) -> None:
        now_s = time.monotonic()
        if self._due("documents", DOCUMENTS_S, now_s):
            self._read_documents()
            self._keep_publishing()
        self._follow()
        if self._due("samples", SAMPLE_S, now_s):
            self._sample(now_s - self._begun_s)
        if self._due("alarms", self.options.pace.evaluate_s, now_s):
            self._evaluate()

    def _due(self, what: str, every_s: float, now_s: float) -> bool:
        if now_s < self._next_s[what]:
            return False
        self._next_s[what] = now_s + every_s
        return True

    def _disturbed(self, text: str) -> None:
        """Say it once, not at every tick."""
        if text != self._disturbance:
            self._disturbance = text
            self.cloud.tell(text)

    def _keep_publishing(self) -> None:
        publisher = self._publisher
        if publisher is not None and not publisher.running:
            self._disturbed(f"the publisher ended, see {publisher.log}; it is started again")
            publisher.kill()
            self._publisher = self._publish()

    def _stop_publishing(self) -> None:
        if self._publisher is not None:
            self._publisher.stop(2.0)

    def _read_documents(self) -> None:
        names = list(self._by_name)
        policies: dict[str, Policy] = {}
        for name in names:
            hooks = self._autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=name)
            found = [Hook.from_aws(hook) for hook in hooks["LifecycleHooks"]]
            self._hooks[name] = {hook.transition: hook for hook in found}
            answer = self._autoscaling.describe_policies(AutoScalingGroupName=name)
            made = [Policy.from_aws(policy) for policy in answer["ScalingPolicies"]]
            policies.update({policy.arn: policy for policy in made})
        pages = self._cloudwatch.get_paginator("describe_alarms").paginate()
        documents = [alarm for page in pages for alarm in page["MetricAlarms"]]
        self._policies = policies
        self._watches = [
            self._watch(document) for document in documents if concerns(document, names)
        ]

    def _watch(self, document: Mapping[str, Any]) -> Watch:
        """An alarm; those that AWS makes for target tracking have the policy's period."""
        policy = next(
            (p for p in self._policies.values() if document["AlarmName"] in p.alarms), None
        )
        if policy is None:
            return Watch.from_aws(document)
        high, low = self.options.pace.tracking_periods
        periods = high if document["ComparisonOperator"].startswith("Greater") else low
        count = {"EvaluationPeriods": periods, "DatapointsToAlarm": periods}
        return Watch.from_aws({**document, **count}, policy.period_s)

    def _follow(self) -> None:
        names = list(self._by_name)
        found = self._autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=names)
        for document in found["AutoScalingGroups"]:
            name = document["AutoScalingGroupName"]
            plan = Plan.from_aws(document, self._hooks.get(name, {}))
            try:
                with self._lock:
                    self._by_name[name].follow(plan)
            except DISTURBANCES as error:  # the other groups go on
                self._disturbed(f"{name}: {error}")

    def _evaluate(self) -> None:
        now_s = time.time()
        looks = []
        for watch in self._watches:
            last = self.looks.get(watch.name)
            before = last.state if last else State.INSUFFICIENT_DATA
            look = watch.look(self._cloudwatch, now_s, before)
            looks.append(look)
            if look.state is not before:
                self._tell_state(look)
        self.looks = {look.watch.name: look for look in looks}
        for group in self._by_name.values():
            with self._lock:
                change = self._actions.decide(group, looks, self._policies, now_s)
            if change is not None:
                self._apply(group, change)

    def _tell_state(self, look: Look) -> None:
        """Keep the state where others look for it; what the embedded AWS thinks does not count."""
        self._cloudwatch.set_alarm_state(
            AlarmName=look.watch.name, StateValue=str(look.state), StateReason=f"{look}."
        )
        if look.watch.scales and State.ALARM in (look.state, look.before):
            self.cloud.tell(f"alarm {look}")

    def _apply(self, group: Group, change: Change) -> None:
        before = group.plan.desired
        if change.desired != before:
            group.reason = change.reason
            set_desired(self._autoscaling, group.name, change.desired, change.reason)
            group.tell(f"{before} → {change.desired}: {change.reason}")
        if change.desired < change.wanted and group.name not in self._at_max:
            self._at_max.add(group.name)
            group.tell(f"is at its maximum of {group.plan.max}: {change.reason}")
        elif change.wanted <= change.desired:
            self._at_max.discard(group.name)

    def _sample(self, time_s: float) -> None:
        for pipeline, group in self.groups.items():
            backlog: Backlog = read_backlog(self._sqs, self.cloud.stack.queue_urls[pipeline])
            with self._lock:
                sample = Sample(
                    time_s,
                    backlog.visible,
                    backlog.in_flight,
                    group.in_service,
                    group.pending,
                    sum(instance.leaving for instance in group.instances),
                    group.plan.desired,
                )
            self.samples[pipeline].append(sample)

    # ------------------------------------------------------------------ processes

    def _publish(self) -> Process:
        pace = self.options.pace
        others = {
            f"CIS_SCALING_GROUP_{name.upper()}": ""
            for name in self.cloud.stack.groups
            if name not in self.groups
        }
        command = [sys.executable, "-m", "cis_tasks", "scaling", "publish", "--high-resolution"]
        command += ["--every", str(pace.publish_s), "--policy", self.options.policy]
        environment = self._inherited(1)
        return Process(
            command,
            log=self.cloud.state / "publisher.log",
            env={**environment, **self.options.variables, **others},
        )

    def _launch(self, instance: Instance) -> Worker:
        pipeline = next(name for name, g in self.groups.items() if g.name == instance.group)
        beside = sum(len(group.present) for group in self.groups.values())
        pace = self.options.pace
        own = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{self._server.endpoint}/{instance.id}",
            "CIS_DRAIN": "ec2",
            "CIS_DRAIN_POLL_S": str(pace.drain_poll_s),
            "CIS_DRAIN_HOLD_S": str(pace.hold_s),
        }
        return Worker(
            instance.id,
            find(pipeline).queue,
            environment={**self._inherited(beside), **own, **self.options.variables},
            folder=self.cloud.state / "workers",
            app=self.options.app,
            options=pool_options(find(pipeline)),
        )

    def _inherited(self, beside: int) -> dict[str, str]:
        base = env.without(os.environ, "AWS_") if self.cloud.emulator else dict(os.environ)
        return env.of_worker(base, self.environment, beside)

    def _end(self) -> None:
        with self._lock:
            present = [i for group in self.groups.values() for i in group.present]
            if present:
                self.cloud.tell(f"stopping {len(present)} instances")
            stop_all(present)

    def _client(self, service: str, endpoint: str) -> Any:
        variables = self.cloud.environment
        return boto3.client(
            service,
            endpoint_url=endpoint,
            aws_access_key_id=variables.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=variables.get("AWS_SECRET_ACCESS_KEY"),
            region_name=variables["AWS_REGION"],
            config=Config(retries={"mode": "standard", "max_attempts": 3}, proxies={}),
        )


@contextmanager
def start(cloud: Cloud, options: Options) -> Iterator[Fleet]:
    """Run the groups of a cloud until the block is left; then its instances end, too.

    The cloud's script for shells leads to the fleet meanwhile.

    Args:
        cloud: whose stack was made with `stack_parameters`.
        options: what to run, and how quick.

    Raises:
        CloudError: the cloud is on another machine, where groups have machines of their own.
    """
    if urlsplit(cloud.endpoint).hostname not in {env.HOST, "localhost", "::1"}:
        raise CloudError(
            f"{cloud.endpoint} is not on this machine, so its groups start machines themselves. "
            "Use the embedded AWS: unset AWS_ENDPOINT_URL."
        )
    fleet = Fleet(cloud, options)
    with fleet.running():
        env.write_script(fleet.environment, cloud.script)
        yield fleet
