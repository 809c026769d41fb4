"""One Auto Scaling group: launches, lifecycle hooks, protection, termination."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cis_tasks.local.fleet.instances import Instance, Lifecycle
from cis_tasks.local.workers import State as WorkerState
from cis_tasks.local.workers import Worker

LAUNCHING = "autoscaling:EC2_INSTANCE_LAUNCHING"
TERMINATING = "autoscaling:EC2_INSTANCE_TERMINATING"
ACTIVITIES_KEPT = 100
SIGTERM_AFTER_S = 5.0  # EC2 does not shut a machine down at once either

Launch = Callable[[Instance], Worker]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Hook:
    """A lifecycle hook.

    Attributes:
        name: its name.
        transition: ``autoscaling:EC2_INSTANCE_LAUNCHING`` or ``…TERMINATING``.
        timeout_s: how long it waits without a heartbeat.
        abandon: whether an instance that nobody answers for is given up.
    """

    name: str
    transition: str
    timeout_s: float
    abandon: bool

    @classmethod
    def from_aws(cls, hook: Mapping[str, Any]) -> Hook:
        """A hook as DescribeLifecycleHooks gives it."""
        return cls(
            name=hook["LifecycleHookName"],
            transition=hook["LifecycleTransition"],
            timeout_s=float(hook.get("HeartbeatTimeout") or 3600),
            abandon=hook.get("DefaultResult") == "ABANDON",
        )


@dataclass(frozen=True)
class Plan:
    """What a group should be.

    Attributes:
        desired: how many instances it wants.
        min: its fewest.
        max: its most.
        zones: availability zones, which take turns.
        protect_new: whether new instances are protected from scale-in.
        hooks: transition → hook.
    """

    desired: int
    min: int
    max: int
    zones: tuple[str, ...]
    protect_new: bool = False
    hooks: Mapping[str, Hook] = field(default_factory=dict)

    @classmethod
    def from_aws(cls, group: Mapping[str, Any], hooks: Mapping[str, Hook]) -> Plan:
        """A plan of what DescribeAutoScalingGroups gives."""
        return cls(
            desired=int(group["DesiredCapacity"]),
            min=int(group["MinSize"]),
            max=int(group["MaxSize"]),
            zones=tuple(group.get("AvailabilityZones") or ["us-east-1a"]),
            protect_new=bool(group.get("NewInstancesProtectedFromScaleIn")),
            hooks=hooks,
        )


@dataclass
class Activity:
    """Something that the group did.

    Attributes:
        description: what, in AWS's words.
        cause: why.
        started_s: when it began.
        status: ``InProgress``, ``Successful`` or ``Failed``.
        ended_s: when it ended.
    """

    description: str
    cause: str
    started_s: float
    status: str = "InProgress"
    ended_s: float | None = None

    def end(self, *, well: bool = True) -> None:
        """It ended, now."""
        self.ended_s = time.time()
        self.status = "Successful" if well else "Failed"


class Group:
    """A group and its instances; not safe for threads by itself.

    Args:
        name: its name.
        launch: starts the worker of an instance that has booted.
        boot_s: from launch to the start of the worker, which takes its time on top.
        shutdown_s: from the order to end to the end of what has not ended.
        tell: called with one line for each thing that happened.

    Attributes:
        instances: those that are there and those that were, oldest first.
        activities: what it did, newest first.
        plan: what it should be, once known.
        reason: why its desired capacity was last changed.
    """

    def __init__(
        self, name: str, launch: Launch, *, boot_s: float, shutdown_s: float, tell: Tell
    ) -> None:
        self.name = name
        self.instances: list[Instance] = []
        self.activities: deque[Activity] = deque(maxlen=ACTIVITIES_KEPT)
        self.plan = Plan(0, 0, 1, ("us-east-1a",))
        self.reason = "the group was made"
        self._launch, self._boot_s, self._shutdown_s = launch, boot_s, shutdown_s
        self._tell_cloud = tell
        self._open: dict[Instance, Activity] = {}

    @property
    def present(self) -> list[Instance]:
        """Instances that have not ended."""
        return [instance for instance in self.instances if not instance.gone]

    @property
    def in_service(self) -> int:
        """How many take jobs."""
        return sum(i.state is Lifecycle.IN_SERVICE for i in self.instances)

    @property
    def pending(self) -> int:
        """How many start."""
        return sum(instance.starting for instance in self.instances)

    def warming(self, warmup_s: float) -> int:
        """How many start, or have been in service for less than ``warmup_s``."""
        now_s = time.time()
        return sum(
            i.starting or (i.in_service_s is not None and now_s - i.in_service_s < warmup_s)
            for i in self.instances
            if i.counts
        )

    def tell(self, text: str) -> None:
        """Say something about the group."""
        self._tell_cloud(f"{self.name} {text}")

    def find(self, instance_id: str) -> Instance | None:
        """The instance of that id, unless it is gone."""
        return next((i for i in self.present if i.id == instance_id), None)

    def follow(self, plan: Plan) -> None:
        """Bring the group nearer to what it should be."""
        self.plan = plan
        for instance in self.present:
            self._advance(instance)
        here = [instance for instance in self.instances if instance.counts]
        for _ in range(plan.desired - len(here)):
            self._add()
        self._remove(len(here) - plan.desired)

    def terminate(self, instance: Instance, why: str) -> None:
        """Let an instance go: it is given notice, and time where a hook says so."""
        instance.why = why
        self._begin(instance, f"Terminating EC2 instance: {instance.id}", why)
        self.tell(f"{instance.id} has to go: {why}")
        hook = self.plan.hooks.get(TERMINATING)
        if instance.worker is None:
            self._gone(instance)
        elif hook is None:
            _proceed(instance)
        else:
            instance.state = Lifecycle.TERMINATING_WAIT
            instance.hook_until_s = time.time() + hook.timeout_s

    def complete(self, instance: Instance, hook: str, *, carry_on: bool) -> bool:
        """End the wait of a hook; False where none of that name waits."""
        if self._waits_for(instance) != hook:
            return False
        if instance.state is Lifecycle.TERMINATING_WAIT:
            _proceed(instance)
        elif carry_on:
            self._serve(instance)
        else:
            self.terminate(instance, "its launch hook was abandoned")
        return True

    def heartbeat(self, instance: Instance, hook: str) -> bool:
        """Let a hook wait on; False where none of that name waits."""
        if self._waits_for(instance) != hook:
            return False
        transition = TERMINATING if instance.leaving else LAUNCHING
        instance.hook_until_s = time.time() + self.plan.hooks[transition].timeout_s
        return True

    def _waits_for(self, instance: Instance) -> str | None:
        waiting = {Lifecycle.PENDING_WAIT: LAUNCHING, Lifecycle.TERMINATING_WAIT: TERMINATING}
        hook = self.plan.hooks.get(waiting.get(instance.state, ""))
        return hook.name if hook else None

    def _add(self) -> None:
        zone = self.plan.zones[len(self.instances) % len(self.plan.zones)]
        instance = Instance(self.name, zone, time.time(), protected=self.plan.protect_new)
        self.instances.append(instance)
        self._begin(instance, f"Launching a new EC2 instance: {instance.id}", self.reason)
        self.tell(f"{instance.id} launched")

    def _remove(self, surplus: int) -> None:
        """Those that have not started first, then the oldest; protected ones stay."""
        free = [i for i in self.instances if i.counts and not i.protected]
        free.sort(key=lambda i: (not i.starting, i.launched_s))
        for instance in free[: max(0, surplus)]:
            self.terminate(instance, f"{self.plan.desired} wanted: {self.reason}")

    def _advance(self, instance: Instance) -> None:
        if instance.starting:
            self._boot(instance)
        elif instance.state is Lifecycle.IN_SERVICE:
            self._check(instance)
        else:
            self._end(instance)

    def _boot(self, instance: Instance) -> None:
        now_s = time.time()
        if instance.worker is None:
            if now_s - instance.launched_s >= self._boot_s:
                self._start_worker(instance)
        elif instance.worker_ended:
            self._lost(instance, f"its worker did not start, see {instance.worker.log}")
        elif instance.state is Lifecycle.PENDING and instance.worker_ready:
            self._serve(instance)
        elif instance.hook_until_s is not None and now_s >= instance.hook_until_s:
            hook = self.plan.hooks[LAUNCHING]
            self.complete(instance, hook.name, carry_on=not hook.abandon)

    def _start_worker(self, instance: Instance) -> None:
        instance.worker = self._launch(instance)
        hook = self.plan.hooks.get(LAUNCHING)
        if hook is not None:
            instance.state = Lifecycle.PENDING_WAIT
            instance.hook_until_s = time.time() + hook.timeout_s

    def _serve(self, instance: Instance) -> None:
        instance.state = Lifecycle.IN_SERVICE
        instance.in_service_s = time.time()
        instance.hook_until_s = None
        self._finish(instance)
        took_s = instance.in_service_s - instance.launched_s
        self.tell(f"{instance.id} in service after {took_s:.1f} s")

    def _check(self, instance: Instance) -> None:
        if instance.spot_end_s is not None and time.time() >= instance.spot_end_s:
            if instance.worker is not None:
                instance.worker.kill()
            self._lost(instance, "its spot interruption")
        elif instance.worker_ended:
            warned = instance.spot_end_s is not None or instance.advised_s is not None
            self._lost(instance, "its worker left after its notice" if warned else _crash(instance))

    def _end(self, instance: Instance) -> None:
        now_s, worker = time.time(), instance.worker
        if worker is None or instance.worker_ended:
            self._gone(instance)
        elif instance.state is Lifecycle.TERMINATING_WAIT:
            if instance.hook_until_s is not None and now_s >= instance.hook_until_s:
                _proceed(instance)
        else:
            self._shut_down(worker, now_s - (instance.shutdown_s or now_s))

    def _shut_down(self, worker: Worker, for_s: float) -> None:
        """What a machine does with its processes: SIGTERM soon, SIGKILL in the end."""
        if for_s >= SIGTERM_AFTER_S and worker.state is not WorkerState.STOPPING:
            worker.terminate()
        elif for_s >= self._shutdown_s:
            worker.kill()

    def _lost(self, instance: Instance, why: str) -> None:
        self._begin(instance, f"Terminating EC2 instance: {instance.id}", why)
        instance.why = why
        self.tell(f"{instance.id} lost: {why}")
        self._gone(instance)

    def _gone(self, instance: Instance) -> None:
        if instance.worker is not None:
            instance.worker.kill()  # what is left of its pool, and its sign of readiness
        instance.state = Lifecycle.TERMINATED
        instance.ended_s = time.time()
        self._finish(instance)
        self.tell(f"{instance.id} gone")

    def _begin(self, instance: Instance, description: str, cause: str) -> None:
        self._finish(instance, well=False)
        self._open[instance] = Activity(description, cause, time.time())
        self.activities.appendleft(self._open[instance])

    def _finish(self, instance: Instance, *, well: bool = True) -> None:
        activity = self._open.pop(instance, None)
        if activity is not None:
            activity.end(well=well)


def stop_all(instances: list[Instance]) -> None:
    """End the workers of all instances at once, without ceremony."""
    workers = [i.worker for i in instances if i.worker is not None]
    for worker in workers:
        if worker.exit_code is None:
            worker.kill()


def _proceed(instance: Instance) -> None:
    """The machine shuts down from now on."""
    instance.state = Lifecycle.TERMINATING_PROCEED
    instance.shutdown_s = time.time()
    instance.hook_until_s = None


def _crash(instance: Instance) -> str:
    worker = instance.worker
    return f"its worker ended with {worker.exit_code}, see {worker.log}" if worker else "no worker"
