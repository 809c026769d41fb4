"""Publishes readings as metrics and, under ``slo``, sets the group's capacity."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.errors import PermanentError, TransientError
from scaling.backlog import Reading
from scaling.group import Group, set_desired
from scaling.logs import log
from scaling.metrics import at_maximum, datums, put
from scaling.news import Decided, News
from scaling.policy import Decision, Policy
from scaling.reader import Clients, Reader, Watched, explained
from scaling.slo import oldest_s
from scaling.ticks import Observer, Tick

WINDOW_S = 1_200.0
"""How far back readings are kept: longer than any policy looks."""

PolicyFor = Callable[[Reading], Policy]
"""Makes the policy of a group from a reading, which tells its minimum and maximum."""


@dataclass
class _Watch:
    """A queue and its group, and what has been seen of them."""

    reader: Reader
    readings: deque[Reading] = field(default_factory=deque)
    decision: Decision | None = None


class Publisher:
    """Reads queues and groups, publishes what it sees, and scales where it has a policy.

    A reading that fails is logged and left out: nothing is published in its place, so alarms see
    missing data and not an empty queue, and nothing is decided on it.

    Args:
        watched: queues and their groups.
        clients: AWS.
        policy: makes the policy that sets capacities; None leaves that to AWS's alarms.
        high_resolution: publish for alarms of 10 s.
        news: told of each capacity that is set; nobody is if None.
        observers: told of each tick.
    """

    def __init__(
        self,
        watched: Sequence[Watched],
        clients: Clients,
        *,
        policy: PolicyFor | None = None,
        high_resolution: bool = False,
        news: News | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if not watched:
            raise PermanentError(
                "nothing_to_watch",
                "There is no queue to publish the backlog of.",
                "Name a pipeline's queue and its group.",
            )
        self._watches = [_Watch(Reader(one, clients)) for one in watched]
        self._clients = clients
        self._policy = policy
        self._high_resolution = high_resolution
        self._news, self._observers = news, observers
        self._events: Counter[str] = Counter()

    def tick(self) -> list[Reading]:
        """Take and publish one reading of each queue, and scale; no AWS error comes through."""
        begun = time.monotonic()
        self._events.clear()
        seen: dict[str, Reading] = {}
        data: list[dict[str, Any]] = []
        for watch in self._watches:
            watched = watch.reader.watched
            try:
                reading, group = watch.reader.read()
            except (PermanentError, TransientError) as error:
                self._log("unread", pipeline=watched.pipeline, error=str(error))
                continue
            remember(watch.readings, reading, WINDOW_S)
            reading = replace(reading, oldest_s=oldest_s(watch.readings))
            seen[watched.pipeline] = reading
            data += self._datums(watched, reading)
            self._scale(watch, group)
        try:
            put(self._clients.cloudwatch, data)
        except (ClientError, BotoCoreError) as error:
            self._log("unpublished", error=str(explained(error, "the metrics")))
        tick = Tick(time.monotonic() - begun, seen, dict(self._events))
        for observe in self._observers:
            observe(tick)
        return list(seen.values())

    def run(self, every_s: float, stop: threading.Event, ticks: int | None = None) -> None:
        """Tick until told to stop, at fixed moments however long a tick takes.

        Args:
            every_s: from one tick to the next.
            stop: ends it.
            ticks: ends after so many.
        """
        begun, count = time.monotonic(), 0
        while not stop.is_set():
            self.tick()
            count += 1
            if count == ticks:
                return
            elapsed = time.monotonic() - begun
            stop.wait(every_s - elapsed % every_s)

    def _datums(self, watched: Watched, reading: Reading) -> list[dict[str, Any]]:
        if at_maximum(reading):
            self._log(
                "at_maximum",
                group=watched.group,
                max=reading.max,
                visible=reading.visible,
                hint="Jobs wait and the group may not grow; raise its maximum.",
            )
        return datums(reading, watched.queue, watched.group, high_resolution=self._high_resolution)

    def _scale(self, watch: _Watch, group: Group) -> None:
        if self._policy is None:
            return
        try:
            policy = self._policy(watch.readings[-1])
        except PermanentError as error:  # a maximum of 0, say; the other groups go on
            self._log("undecided", group=group.name, error=str(error))
            return
        decision = policy.decide(list(watch.readings), watch.decision)
        watch.decision = decision
        if decision.desired == group.desired:
            return
        fields = {"group": group.name, "before": group.desired, "desired": decision.desired}
        try:
            set_desired(self._clients.autoscaling, group.name, decision.desired, decision.reason)
        except (ClientError, BotoCoreError) as error:
            self._log("unscaled", error=str(explained(error, f"the group {group.name}")), **fields)
            return
        self._log("scaled", policy=decision.policy, reason=decision.reason, **fields)
        self._tell(Decided.of(watch.reader.watched.pipeline, group, decision))

    def _tell(self, decided: Decided) -> None:
        if self._news is None:
            return
        try:
            self._news.tell(decided)
        except (ClientError, BotoCoreError) as error:  # the log has it, too
            self._log("untold", group=decided.group, error=str(error))

    def _log(self, event: str, **fields: object) -> None:
        """Log what happened, and count it."""
        self._events[event] += 1
        log(event, **fields)


def remember(readings: deque[Reading], now: Reading, window_s: float) -> None:
    """Add a reading to those that are looked back at.

    A clock that was set back leaves readings of a time that has not come; they are forgotten.
    """
    while readings and readings[-1].time_s >= now.time_s:
        readings.pop()
    readings.append(now)
    while readings[0].time_s < now.time_s - window_s:
        readings.popleft()
