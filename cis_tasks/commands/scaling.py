"""``cis scaling …``: publish the backlog, explain capacity, simulate policies."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from cis_tasks.errors import SettingsError

if TYPE_CHECKING:
    from scaling.explain import Explanation
    from scaling.reader import Watched
    from scaling.simulate.fleet import Outcome
    from scaling.simulate.queue import Arrivals

scaling = typer.Typer(help="How many machines there are, and why.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", help="step, target or slo; else CIS_SCALING_POLICY.")
]
WaitOption = Annotated[float, typer.Option("--wait", help="Goal: 95 % of jobs start in this.")]


def register(app: typer.Typer) -> None:
    """Add these commands to ``cis``."""
    app.add_typer(scaling, name="scaling", rich_help_panel="Machines")


@scaling.command()
def publish(
    every: Annotated[float, typer.Option(min=1, help="Seconds from one reading to the next.")] = 60,
    policy: PolicyOption = None,
    high_resolution: Annotated[
        bool, typer.Option("--high-resolution", help="Keep each second apart, for alarms of 10 s.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="One reading, then end.")] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, help="Serve Prometheus's /metrics on this local port.")
    ] = None,
) -> None:
    """Publish the backlog as CloudWatch metrics until stopped; under slo, set capacities, too.

    Queues and groups come from CIS_QUEUE_URL_<PIPELINE> and CIS_SCALING_GROUP_<PIPELINE>.
    """
    from scaling.publisher import Publisher
    from scaling.reader import Clients
    from scaling.settings import news, observers, policy_for

    variables = _environment(policy)
    observing = observers(variables)
    if metrics_port is not None:
        from cis_tasks.scaling_metrics import Metrics, serve

        observing.append(metrics := Metrics())
        serve(metrics, metrics_port)
    publisher = Publisher(
        _watched(variables),
        Clients.make(),
        policy=policy_for(variables),
        high_resolution=high_resolution,
        news=news(variables),
        observers=observing,
    )
    stop = threading.Event()
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda *_: stop.set())
    publisher.run(every, stop, 1 if once else None)


@scaling.command()
def explain(
    pipeline: Annotated[str | None, typer.Argument(help="Else all that have a group.")] = None,
    policy: PolicyOption = None,
    as_json: AsJson = False,
) -> None:
    """Say why each group has the capacity that it has."""
    from cis_tasks.console import console
    from scaling import explain as module
    from scaling.reader import Clients, Reader
    from scaling.settings import policy_for

    variables = _environment(policy)
    make, clients = policy_for(variables), Clients.make()
    told = []
    for watched in _watched(variables, pipeline):
        chosen = make(Reader(watched, clients).read()[0]) if make else None
        told.append(module.explain(watched, clients, chosen))
    if as_json:
        console.print_json(json.dumps([_explanation_json(one) for one in told], default=str))
        return
    for one in told:
        _show(one)


@scaling.command()
def simulate(
    *,
    workload: Annotated[
        str, typer.Option(help="burst, daily, poisson, at-once, or a CSV with column time_s.")
    ] = "daily",
    policy: Annotated[
        list[str] | None, typer.Option(help="step, target, slo; several to compare. Default: all.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs in all, about.")] = 20_000,
    hours: Annotated[float, typer.Option(min=0.1, help="Length of burst and poisson.")] = 24.0,
    wait: WaitOption = 60.0,
    service: Annotated[float, typer.Option(help="Mean service time, s.")] = 20.0,
    variation: Annotated[float, typer.Option(help="Its standard deviation ÷ mean.")] = 0.5,
    groups: Annotated[int, typer.Option(min=0, help="FIFO groups; 0: every job is free.")] = 0,
    boot: Annotated[float, typer.Option(help="From launch to the first job, s.")] = 60.0,
    slots: Annotated[int, typer.Option(min=1, help="Jobs that a machine runs at a time.")] = 1,
    price: Annotated[float, typer.Option(help="Of a machine, an hour.")] = 1.0,
    losses: Annotated[float, typer.Option(help="Spot losses of a machine, an hour.")] = 0.0,
    delay: Annotated[float, typer.Option(help="How late CloudWatch shows a metric, s.")] = 5.0,
    minimum: Annotated[int, typer.Option("--min", min=0)] = 0,
    maximum: Annotated[int, typer.Option("--max", min=1)] = 20,
    floor: Annotated[str, typer.Option(help="Scheduled minimums, as 2@7-19 mon-fri; 1@22-6.")] = "",
    seed: Annotated[int, typer.Option(help="Another seed is another day.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Write a picture (.png or .svg).")] = None,
    find: Annotated[
        bool, typer.Option("--find", help="Find numbers with which each policy meets the goal.")
    ] = False,
    budget: Annotated[float | None, typer.Option(help="With --find: most cost an hour.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try policies on a workload: waits, cost, instances over time."""
    from scaling.policy import Limits
    from scaling.settings import POLICIES, floors
    from scaling.simulate import arrivals, compare
    from scaling.simulate.fleet import Conditions
    from scaling.steps import Bounds

    runs = arrivals.Service(service, variation)
    work = arrivals.named(workload, jobs, hours, runs, seed=seed, groups=groups)
    conditions = Conditions(
        boot_s=boot, slots=slots, price_per_hour=price, losses_per_hour=losses, seed=seed
    )
    limits = Limits(Bounds(minimum, maximum), floors(floor))
    names = policy or list(POLICIES)
    if unknown := set(names) - set(POLICIES):
        raise SettingsError(f"There is no policy {unknown.pop()!r}; use {', '.join(POLICIES)}.")
    if find:
        goal = compare.Goal(wait, budget)
        tried = {
            name: compare.search(name, goal, work, conditions, limits, delay_s=delay)
            for name in names
        }
        _found(tried, as_json)
        return
    mean_s = work.work_s / len(work)
    offered = compare.policies(limits, wait_s=wait, service_s=mean_s, boot_s=boot, delay_s=delay)
    chosen = [one for one in offered if one.name in names]
    outcomes = compare.compare(chosen, work, conditions, limits)
    if plot is not None:
        _plot(outcomes, work, plot, workload)
    _outcomes(outcomes, as_json)


def _environment(policy: str | None) -> dict[str, str]:
    given = {"CIS_SCALING_POLICY": policy} if policy else {}
    return {**os.environ, **given}


def _watched(variables: dict[str, str], pipeline: str | None = None) -> list[Watched]:
    from scaling.settings import watched

    found = [one for one in watched(variables) if pipeline in (None, one.pipeline)]
    if not found:
        raise SettingsError(
            f"No group is known{f' for {pipeline}' if pipeline else ''}: set "
            "CIS_SCALING_GROUP_<PIPELINE> and CIS_QUEUE_URL_<PIPELINE>, which the stack's "
            "outputs <Pipeline>GroupName and <Pipeline>QueueUrl tell."
        )
    return found


def _show(one: Explanation) -> None:
    from rich.table import Table

    from cis_tasks.console import console

    console.print(f"[bold]{escape(one.group.name)}[/]  {escape(one.sentence)}")
    table = Table.grid(padding=(0, 2))
    r = one.reading
    table.add_row("queue", f"{r.visible} waiting, {r.in_flight} running, {r.delayed} delayed")
    table.add_row("group", f"min {r.min}, max {r.max}, desired {r.desired}")
    drain = "unknown" if r.drain_s is None else f"{r.drain_s:.0f} s"
    table.add_row("times", f"job {_s(r.service_s)}, boot {_s(r.boot_s)}, to drain {drain}")
    for alarm in one.alarms:
        style = "red" if alarm.state == "ALARM" else "dim"
        text = f"[{style}]{alarm.state}[/] {escape(alarm.name)}  [dim]{escape(alarm.reason)}[/]"
        table.add_row("alarm", text)
    table.add_row("policies", escape(", ".join(one.policies)) or "[dim]none[/]")
    if one.decision is not None:
        table.add_row("decision", f"{one.decision.desired}: {escape(one.decision.reason)}")
    if one.group.decision:
        table.add_row("last change", escape(one.group.decision))
    for activity in one.activities:
        when = f"{activity.started:%H:%M:%S} {activity.status}"
        table.add_row("activity", f"{when} {escape(activity.description)} [dim]{activity.cause}[/]")
    console.print(table)


def _s(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.0f} s"


def _explanation_json(one: Explanation) -> dict[str, Any]:
    return {
        "pipeline": one.watched.pipeline,
        "group": one.group.name,
        "why": one.sentence,
        "reading": vars(one.reading),
        "alarms": [vars(alarm) for alarm in one.alarms],
        "policies": list(one.policies),
        "decision": vars(one.decision) if one.decision else None,
        "last_change": one.group.decision,
        "activities": [vars(activity) for activity in one.activities],
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "policy": outcome.policy,
        **{f"p{p}_s": outcome.wait_s(p) for p in (50, 95, 99)},
        "cost": outcome.cost,
        "utilisation": outcome.utilisation,
        "launched": outcome.launched,
        "lost": outcome.lost,
        "peak": outcome.peak,
    }


def _outcomes(outcomes: list[Outcome], as_json: bool) -> None:
    from rich.table import Table

    from cis_tasks.console import console

    told = [_outcome_json(outcome) for outcome in outcomes]
    if as_json:
        console.print_json(json.dumps(told))
        return
    table = Table(*told[0], box=None, header_style="dim")
    for one in told:
        table.add_row(*(_cell(name, value) for name, value in one.items()))
    console.print(table)


def _cell(name: str, value: float | str) -> str:
    if isinstance(value, str | int):
        return str(value)
    return f"{value:.0%}" if name == "utilisation" else f"{value:,.1f}"


def _found(found: dict[str, Any], as_json: bool) -> None:
    from cis_tasks.console import console

    told = {
        name: [{**one.numbers, "meets": one.meets, **_outcome_json(one.outcome)} for one in tried]
        for name, tried in found.items()
    }
    if as_json:
        console.print_json(json.dumps(told))
        return
    for name, tried in found.items():
        best = tried[0]
        numbers = ", ".join(f"{key} {value:g}" for key, value in best.numbers.items())
        verdict = "[green]meets the goal[/]" if best.meets else "[red]does not meet the goal[/]"
        console.print(f"[bold]{name}[/]  {numbers}  {verdict}")
        _outcomes([one.outcome for one in tried[:3]], as_json=False)


def _plot(outcomes: list[Outcome], work: Arrivals, file: Path, title: str) -> None:
    from scaling.simulate.plots import curves

    curves(outcomes, work, file, title)
