"""A FIFO queue and the machines that work through it, moved on from one moment to the next.

Between two changes of the fleet all that happens are arrivals and ends of jobs; a heap of ends
moves a million jobs on in seconds, where a process for each would take minutes.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Arrivals:
    """Jobs, in the order in which they arrive.

    Attributes:
        times_s: when each arrives.
        service_s: how long each runs.
        groups: message group of each; jobs of one group run one after the other. Without, each
            job is free of all others.
    """

    times_s: Sequence[float]
    service_s: Sequence[float]
    groups: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def work_s(self) -> float:
        """Seconds of work in all."""
        return math.fsum(self.service_s)


class Machine:
    """An instance: takes up to ``slots`` jobs at a time once it is ready.

    Attributes:
        launched_s: when it was launched, from when it is paid for.
        ended_s: when it was gone; infinity while it is there.
        accepts: whether it takes further jobs.
        jobs: what runs on it.
        free: slots that are free.
    """

    __slots__ = ("accepts", "ended_s", "free", "jobs", "launched_s")

    def __init__(self, launched_s: float) -> None:
        self.launched_s = launched_s
        self.ended_s = math.inf
        self.accepts = False
        self.jobs: set[int] = set()
        self.free = 0


class Queue:
    """The queue and the jobs that run.

    Attributes:
        waits_s: for each job that has started, how long it waited; of a job that was started
            again, until the last start.
        running: jobs that run.
        arrived: jobs that have arrived.
        ended: jobs that are done.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._times = array("d", arrivals.times_s)
        self._service = array("d", arrivals.service_s)
        self._groups = arrivals.groups
        self._held: dict[int, deque[int]] = {}
        self._ready: list[int] = []
        self._idle: list[Machine] = []
        self._ends: list[tuple[float, int, Machine]] = []
        self.waits_s = array("d", bytes(8 * len(self._times)))
        self.now_s = 0.0
        self.arrived = 0
        self.running = 0
        self.ended = 0

    @property
    def visible(self) -> int:
        """Messages that wait, those behind another of their group included."""
        return self.arrived - self.ended - self.running

    @property
    def done(self) -> bool:
        """Whether every job has come and ended."""
        return self.ended == len(self._times)

    @property
    def oldest_s(self) -> float:
        """Age of the oldest job that may start now."""
        return self.now_s - self._times[self._ready[0]] if self._ready else 0.0

    def add(self, machine: Machine, slots: int) -> None:
        """Let a machine take jobs, from now on."""
        machine.accepts = True
        machine.free = slots
        self._idle.extend([machine] * slots)
        self._start(self.now_s)

    def hand_back(self, machine: Machine) -> None:
        """Give back what runs on a machine; it starts again elsewhere, before what came later."""
        self.running -= len(machine.jobs)
        for job in machine.jobs:
            heapq.heappush(self._ready, job)
        machine.jobs = set()
        self._start(self.now_s)

    def advance(self, until_s: float) -> None:
        """Let jobs come, start and end until a moment."""
        times, ends, total = self._times, self._ends, len(self._times)
        pop = heapq.heappop
        while True:
            arrival_s = times[self.arrived] if self.arrived < total else math.inf
            end_s = ends[0][0] if ends else math.inf
            now_s = min(arrival_s, end_s)
            if now_s > until_s:
                break
            if arrival_s <= end_s:
                self._arrive(self.arrived)
            else:
                _, job, machine = pop(ends)
                self._end(job, machine, now_s)
            self._start(now_s)
        self.now_s = until_s

    def _arrive(self, job: int) -> None:
        self.arrived += 1
        if self._groups is None:
            heapq.heappush(self._ready, job)
            return
        group = self._groups[job]
        if group in self._held:
            self._held[group].append(job)
        else:
            self._held[group] = deque()
            heapq.heappush(self._ready, job)

    def _end(self, job: int, machine: Machine, now_s: float) -> None:
        if job not in machine.jobs:
            return  # it was handed back
        machine.jobs.remove(job)
        self.running -= 1
        self.ended += 1
        machine.free += 1
        if machine.accepts:
            self._idle.append(machine)
        elif not machine.jobs:
            machine.ended_s = now_s
        if self._groups is not None:
            self._release(self._groups[job])

    def _release(self, group: int) -> None:
        held = self._held[group]
        if held:
            heapq.heappush(self._ready, held.popleft())
        else:
            del self._held[group]

    def _start(self, now_s: float) -> None:
        ready, idle = self._ready, self._idle
        while ready and idle:
            machine = idle.pop()
            if not machine.accepts:
                continue
            job = heapq.heappop(ready)
            machine.jobs.add(job)
            machine.free -= 1
            self.running += 1
            self.waits_s[job] = now_s - self._times[job]
            heapq.heappush(self._ends, (now_s + self._service[job], job, machine))
