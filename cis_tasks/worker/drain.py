"""Leaves a machine in good order when AWS takes it away, and keeps it while it is busy.

A machine goes by a spot interruption, a rebalance recommendation, the Auto Scaling group's
scale-in, or a plain SIGTERM. The worker then stops receiving and gives back what it has not
started (the broker does both on SIGTERM), finishes the job that runs or, when the time is up,
gives that back too, completes the group's lifecycle hook and ends.

As ``CIS_DRAIN=ec2`` says; of several workers on one machine, `cis_tasks.worker.host` says who
speaks.
"""

from __future__ import annotations

import atexit
import http.client
import json
import math
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from celery import bootsteps, signals
from celery.worker import state

from cis_tasks.settings import Settings, settings
from cis_tasks.worker.host import Alone, Host, Shared

READY_HOOK = "ready"
"""Lifecycle hook of the template that holds a new machine until its worker takes jobs."""

DRAIN_HOOK = "drain"
"""Lifecycle hook of the template that holds a machine which has to go until it is done."""

METADATA_URL = "http://169.254.169.254"
GROUP_TAG = "aws:autoscaling:groupName"
TOKEN_TTL_S = 21_600
TICK_S = 0.5
SPOT_RESERVE_S = 15.0
"""What is kept of a spot notice's two minutes, to give the job back and to end."""

HEARTBEAT_S = 60.0
FINAL = {"terminate", "spot"}
"""Kinds of notices after which the machine does not come back."""

TOLD = ("LifecycleHookName", "ProtectedFromScaleIn")
CONFIG = Config(
    retries={"mode": "standard", "max_attempts": 2},
    connect_timeout=3,
    read_timeout=10,
    user_agent_extra="cis-tasks-drain",
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Notice:
    """That the machine or the worker has to go.

    Attributes:
        kind: ``spot``, ``terminate``, ``rebalance`` or ``signal``.
        until_s: when the job that runs has to be given back, in seconds since the epoch.
    """

    kind: str
    until_s: float


class Metadata:
    """A machine's instance metadata service, version 2.

    Args:
        endpoint: its URL; what ``AWS_EC2_METADATA_SERVICE_ENDPOINT`` says, or EC2's own, if None.

    Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
    """

    def __init__(self, endpoint: str | None = None, timeout_s: float = 2.0) -> None:
        given = endpoint or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA_URL
        self._url = f"{given.rstrip('/')}/latest"
        self._timeout_s = timeout_s
        self._token = ""
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, path: str) -> str | None:
        """What stands under ``/latest/meta-data/<path>``; None where nothing does.

        Raises:
            OSError: the service does not answer.
        """
        for _ in range(2):  # a token may have run out, or be another machine's
            if not self._token:
                self._token = self._request("PUT", "api/token", _TTL)
            try:
                return self._request("GET", f"meta-data/{path}", {_TOKEN: self._token})
            except urllib.error.HTTPError as error:
                if error.code == http.client.NOT_FOUND:
                    return None
                if error.code != http.client.UNAUTHORIZED:
                    raise
                self._token = ""
        raise OSError("the instance metadata service refuses its own token")

    def notice(self, now_s: float, grace_s: float) -> Notice | None:
        """Whether the machine has to go, and how long the job may run on.

        Args:
            now_s: seconds since the epoch.
            grace_s: how long a job may run on where AWS leaves that to us.

        Raises:
            OSError: the service does not answer.
        """
        spot = self.get("spot/instance-action")
        if spot is not None:
            end_s = datetime.fromisoformat(json.loads(spot)["time"]).timestamp()
            return Notice("spot", end_s - SPOT_RESERVE_S)
        if self.get("autoscaling/target-lifecycle-state") in {"Terminated", "Warmed:Stopped"}:
            return Notice("terminate", now_s + grace_s)
        if self.get("events/recommendations/rebalance") is not None:
            return Notice("rebalance", now_s + grace_s)
        return None

    def _request(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(f"{self._url}/{path}", method=method, headers=headers)  # noqa: S310
        try:
            with self._open(request, timeout=self._timeout_s) as answer:
                return str(answer.read().decode())
        except http.client.HTTPException as error:
            raise OSError(f"no metadata: {error!r}") from error


_TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105  the header's name
_TTL = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}


class Membership:
    """What the machine tells its Auto Scaling group; an error is logged and goes no further.

    Args:
        group: name of the group.
        instance: id of the machine.
        client: boto3's client of Auto Scaling.
    """

    def __init__(self, group: str, instance: str, client: Any) -> None:
        self.group, self.instance = group, instance
        self._client = client

    def protect(self, *, protected: bool) -> bool:
        """Keep scale-in from the machine, or let it come; False where that failed."""
        return self._call(
            "set_instance_protection",
            AutoScalingGroupName=self.group,
            InstanceIds=[self.instance],
            ProtectedFromScaleIn=protected,
        )

    def complete(self, hook: str) -> bool:
        """Tell the group to go on with what it waits for; False where that failed."""
        return self._hook("complete_lifecycle_action", hook, LifecycleActionResult="CONTINUE")

    def heartbeat(self, hook: str) -> bool:
        """Make the group wait on; False where that failed."""
        return self._hook("record_lifecycle_action_heartbeat", hook)

    def _hook(self, operation: str, hook: str, **further: str) -> bool:
        return self._call(
            operation,
            AutoScalingGroupName=self.group,
            InstanceId=self.instance,
            LifecycleHookName=hook,
            **further,
        )

    def _call(self, operation: str, **request: Any) -> bool:
        try:
            getattr(self._client, operation)(**request)
        except (ClientError, BotoCoreError) as error:
            log.warning("group_not_told", operation=operation, error=str(error))
            return False
        said = {name: request[name] for name in TOLD if name in request}
        log.info("group_told", operation=operation, instance=self.instance, **said)
        return True


@dataclass(frozen=True)
class Protection:
    """Scale-in protection as it is, and when that was last needed.

    Attributes:
        on: as it was last set; None where nobody knows.
        needed_s: when the worker was last busy, on the monotonic clock.
    """

    on: bool | None
    needed_s: float

    def change(self, *, busy: bool, now_s: float, hold_s: float) -> bool | None:
        """What to set it to now; None to leave it.

        It comes at once and goes after ``hold_s`` without a job, so that a machine with one job
        after the other costs two calls, not two for each.
        """
        if busy:
            return None if self.on else True
        return False if self.on is not False and now_s - self.needed_s >= hold_s else None


class Guard:
    """Watches the machine and the worker from a thread of its own.

    Args:
        metadata: the machine's.
        busy: whether the worker has jobs.
        stop: sends a signal to the worker: SIGTERM to drain, SIGQUIT to give its job back.
        grace_s: how long a job may run on after a notice that sets no time.
        poll_s: how often the machine is asked.
        hold_s: how long an idle machine stays protected.
        connect: makes the membership of a group (its name; what the metadata says if empty).
        host: the machine's workers.
    """

    def __init__(
        self,
        metadata: Metadata,
        *,
        busy: Callable[[], bool],
        stop: Callable[[signal.Signals], None],
        connect: Callable[[Metadata], Membership],
        grace_s: float,
        poll_s: float,
        hold_s: float,
        host: Host,
    ) -> None:
        self._metadata, self._busy, self._stop = metadata, busy, stop
        self._connect, self._host = connect, host
        self._grace_s, self._poll_s, self._hold_s = grace_s, poll_s, hold_s
        self._membership: Membership | None = None
        self._protection = Protection(None, time.monotonic())
        self._notices: dict[str, Notice] = {}
        self._stopping = self._given_up = self._ended = False
        self._ready = self._untold = False
        self._asked_s = self._beat_s = self._protect_again_s = -math.inf
        self._wake = threading.Event()

    def wake(self, **_: Any) -> None:
        """Look now: a job has come."""
        self._wake.set()

    def worker_ready(self, **_: Any) -> None:
        """Jobs are taken: the group may count the machine in, and watching begins.

        Not before: a pool's processes that are forked while this thread holds a lock would wait
        for it for ever.
        """
        if not self._ready:
            self._ready = self._untold = True
            threading.Thread(target=self._run, name="drain", daemon=True).start()

    def worker_stopping(self, **_: Any) -> None:
        """The worker was told to end, by whomever; its job has the grace period."""
        # In a signal handler: no lock, no log. The thread looks soon enough.
        self._stopping = True
        self._notices = {"signal": Notice("signal", time.time() + self._grace_s), **self._notices}

    def end(self) -> None:
        """The worker is done: let the group go on, if no other worker of the machine is left."""
        self._ended = True
        self._ask()  # who was told by a signal may not have seen why
        if not self._host.leave() or self._membership is None:
            return
        if self._notices.keys() & FINAL:
            self._membership.complete(DRAIN_HOOK)
        elif self._protection.on is not False:
            self._membership.protect(protected=False)

    def _run(self) -> None:
        while not self._ended:
            try:
                self._look()
            except Exception:
                log.exception("drain_failed")
            self._wake.wait(TICK_S)
            self._wake.clear()

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._asked_s >= self._poll_s:
            self._asked_s = now_s
            self._ask()
        if self._notices:
            self._host.retire()
            self._leave(now_s)
        elif self._membership is not None:
            self._serve(self._membership, now_s)

    def _ask(self) -> None:
        try:
            if self._membership is None:
                self._membership = self._connect(self._metadata)
            notice = self._metadata.notice(time.time(), self._grace_s)
        except (OSError, ValueError, KeyError) as error:
            log.warning("machine_unknown", error=str(error))
            return
        if notice is not None and notice.kind not in self._notices:
            self._notices = {**self._notices, notice.kind: notice}
            if notice.kind in FINAL:
                self._host.going()
            log.info("draining", kind=notice.kind, until=notice.until_s, busy=self._busy())

    def _serve(self, membership: Membership, now_s: float) -> None:
        """The machine is wanted: tell that it is ready, and protect it while it is busy."""
        if self._untold:
            self._untold = False
            if self._host.ready():
                membership.complete(READY_HOOK)
        busy = self._host.busy(mine=self._busy())
        if not self._host.speaks():
            self._protection = Protection(None, now_s)
            return
        if busy:
            self._protection = replace(self._protection, needed_s=now_s)
        change = self._protection.change(busy=busy, now_s=now_s, hold_s=self._hold_s)
        if change is None or now_s < self._protect_again_s:
            return
        if membership.protect(protected=change):
            self._protection = replace(self._protection, on=change)
        else:
            self._protect_again_s = now_s + self._poll_s

    def _leave(self, now_s: float) -> None:
        """The machine has to go: end when the job has ended or its time is up."""
        if not self._stopping:
            self._stopping = True
            self._stop(signal.SIGTERM)
        until_s = min(notice.until_s for notice in self._notices.values())
        if time.time() >= until_s and not self._given_up:
            self._given_up = True
            log.warning("job_given_back", busy=self._busy())
            self._stop(signal.SIGQUIT)
        if "terminate" in self._notices and now_s - self._beat_s >= HEARTBEAT_S:
            self._beat_s = now_s
            if self._membership is not None:
                self._membership.heartbeat(DRAIN_HOOK)


def connect(metadata: Metadata) -> Membership:
    """The machine's membership, as settings and metadata say.

    Raises:
        OSError: the metadata service does not answer, or knows no group.
    """
    instance = metadata.get("instance-id")
    group = settings().drain_group or metadata.get(f"tags/instance/{GROUP_TAG}")
    region = metadata.get("placement/region")
    if not instance or not group:
        raise OSError(
            f"The metadata tell no Auto Scaling group of {instance or 'this machine'}: set "
            "CIS_DRAIN_GROUP, or allow tags in the launch template's instance metadata."
        )
    return Membership(
        group, instance, boto3.client("autoscaling", region_name=region, config=CONFIG)
    )


def host_of(chosen: Settings) -> Host:
    """The workers of this machine, as the settings name them."""
    if chosen.host_folder is None or not chosen.host_worker:
        return Alone()
    names = [name.strip() for name in chosen.host_workers.split(",") if name.strip()]
    try:
        return Shared(chosen.host_folder, chosen.host_worker, names)
    except OSError as error:
        log.warning("host_unknown", folder=str(chosen.host_folder), error=str(error))
        return Alone()


class Drain(bootsteps.StartStopStep):  # type: ignore[misc]  # celery is untyped
    """The worker's step that starts a `Guard`; added where ``CIS_DRAIN`` is ``ec2``."""

    name = "Drain"

    def start(self, worker: Any) -> None:  # noqa: ARG002
        """Watch once jobs are taken; the hook is completed when the process ends."""
        chosen = settings()
        pid = os.getpid()
        guard = Guard(
            Metadata(),
            busy=lambda: bool(state.reserved_requests),
            stop=lambda number: os.kill(pid, number),
            connect=connect,
            grace_s=chosen.drain_grace_s or chosen.time_limit_s,
            poll_s=chosen.drain_poll_s,
            hold_s=chosen.drain_hold_s,
            host=host_of(chosen),
        )
        signals.worker_ready.connect(guard.worker_ready, weak=False)
        signals.task_received.connect(guard.wake, weak=False)
        signals.worker_shutting_down.connect(guard.worker_stopping, weak=False)
        # A cold shutdown passes no signal or step of Celery's after the job was given back.
        atexit.register(_end_in, pid, guard)


def _end_in(pid: int, guard: Guard) -> None:
    """End a guard, but not in a child of its process."""
    if os.getpid() == pid:
        guard.end()
