"""A fleet as one can watch it: groups, instances, alarms; and its curve afterwards."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from cis_tasks.local.fleet.fleet import Fleet, Sample
from cis_tasks.local.fleet.instances import Instance, Lifecycle
from scaling.alarms import State


def tables(fleet: Fleet) -> list[Table]:
    """Groups with their queues, instances with their states, alarms with their values."""
    return [_groups(fleet), _instances(fleet), _alarms(fleet)]


def curve(samples: Sequence[Sample], every_s: float = 5.0) -> str:
    """A group over time, one line for each ``every_s``: jobs, instances and a bar of them."""
    lines = ["   s  waiting  running  desired  instances (█ in service, ▒ starting, ░ leaving)"]
    due_s = 0.0
    for one in samples:
        if one.time_s >= due_s:
            due_s = one.time_s + every_s
            bar = "█" * one.in_service + "▒" * one.pending + "░" * one.leaving
            lines.append(
                f"{one.time_s:4.0f} {one.visible:8} {one.in_flight:8} {one.desired:8}  {bar}"
            )
    return "\n".join(lines)


def _groups(fleet: Fleet) -> Table:
    table = Table(
        *("queue", "waiting", "running", "wanted", "in service", "starting", "leaving", "why"),
        box=None,
        header_style="dim",
    )
    for pipeline, group in fleet.groups.items():
        samples = fleet.samples[pipeline]
        if not samples:
            continue
        now, plan = samples[-1], group.plan
        numbers = (now.visible, now.in_flight, now.in_service, now.pending, now.leaving)
        waiting, running, serving, starting, leaving = map(str, numbers)
        wanted = f"{now.desired} [dim]of {plan.min}–{plan.max}[/]"
        row = (pipeline, waiting, running, wanted, serving, starting, leaving)
        table.add_row(*row, escape(group.reason))
    return table


def _instances(fleet: Fleet) -> Table:
    table = Table("instance", "state", "for", "", "pid", box=None, header_style="dim")
    now_s = time.time()
    for pipeline in fleet.groups:
        for instance in fleet.instances(pipeline):
            since_s = now_s - (instance.in_service_s or instance.launched_s)
            pid = str(instance.worker.pid) if instance.worker else ""
            table.add_row(
                f"{pipeline} {instance.id}",
                _state(instance),
                f"{since_s:.0f} s",
                _note(instance),
                pid,
            )
    return table


def _state(instance: Instance) -> str:
    if instance.state is Lifecycle.IN_SERVICE:
        return "[green]InService[/]"
    return f"[{'yellow' if instance.starting else 'red'}]{instance.state}[/]"


def _note(instance: Instance) -> str:
    if instance.leaving:
        return f"[dim]{escape(instance.why)}[/]"
    if instance.spot_end_s is not None:
        return "[red]spot interruption[/]"
    return "busy, protected" if instance.protected else ""


def _alarms(fleet: Fleet) -> Table:
    table = Table("alarm", "state", "value", box=None, header_style="dim")
    for name, look in sorted(fleet.looks.items()):
        if look.watch.scales:
            style = "red" if look.state is State.ALARM else "dim"
            value = "no data" if look.value is None else f"{look.value:.3g}"
            table.add_row(escape(name), f"[{style}]{look.state}[/]", value)
    return table
