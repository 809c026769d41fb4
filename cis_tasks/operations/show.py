"""What the commands of operations print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from cis_tasks.console import console

if TYPE_CHECKING:
    from cis_tasks.operations.alike import Alike
    from cis_tasks.operations.cost import Cost, Month, Prices
    from cis_tasks.operations.dead_letters import Dead
    from cis_tasks.operations.doctor.registry import Finding
    from cis_tasks.operations.forget import Traces
    from cis_tasks.operations.replay import Replay


def values(value: Any) -> None:
    """Print JSON."""
    console.print_json(json.dumps(value, default=str))


def letters(found: Sequence[Dead]) -> None:
    """Print one line per dead letter."""
    table = Table("job", "name", "dead for", "attempt", "error", box=None, header_style="dim")
    for dead in found:
        job = dead.letter.job
        name = f"{dead.pipeline.name}/{job.name}" if job else f"({dead.letter.problem})"
        why = f"{dead.cause.code}: {dead.cause.message}" if dead.cause.code else "nothing is stored"
        age = _age(dead.letter.age_s(datetime.now(UTC)))
        attempt = str(dead.letter.retries + 1)
        table.add_row(dead.letter.label, escape(name), age, attempt, escape(why))
    console.print(table if table.row_count else "[dim]No dead letters.[/]")


def letter(dead: Dead) -> None:
    """Print one dead letter."""
    table = Table.grid(padding=(0, 2))
    for field, value in dead.to_dict().items():
        if field == "job" and value:
            for role, ref in value["inputs"].items():
                table.add_row(role, escape(f"s3://{ref['bucket']}/{ref['key']}"))
            table.add_row("params", escape(json.dumps(value["params"])))
        elif field == "error":
            table.add_row("error", f"[red]{escape(value['code'] or 'nothing is stored')}[/]")
            table.add_row("", escape(value["message"]))
        elif value is not None:
            table.add_row(field, escape(str(value)))
    console.print(table)


def replay(done: Replay) -> None:
    """Print how a replay went."""
    then = done.manifest
    console.print(f"[bold]{done.job.id}[/]  {escape(f'{done.job.pipeline}/{done.job.name}')}")
    if done.error is not None:
        console.print(f"refused: {escape(str(done.error))}")
    seconds = Table("stage", "then", "now", box=None, header_style="dim")
    stored = dict(then.timings_s) if then else {}
    for stage in dict.fromkeys([*stored, *done.timings_s]):
        both = (_seconds(times.get(stage)) for times in (stored, done.timings_s))
        seconds.add_row(escape(stage), *both)
    console.print(seconds)
    if then is None:
        console.print("There is no record to compare with.")
    elif not done.differences:
        console.print("[green]As in the record.[/]")
    else:
        table = Table("differs", "in the record", "here", box=None, header_style="dim")
        for one in done.differences:
            table.add_row(*(escape(str(part)) for part in (one.what, one.stored, one.replayed)))
        console.print(table)
    console.print(f"files: {escape(str(done.folder))}")


def replay_as_json(done: Replay) -> dict[str, Any]:
    """A replay for programs."""
    return {
        "job_id": done.job.id,
        "record": done.manifest is not None,
        "error": str(done.error) if done.error else None,
        "timings_s": dict(done.timings_s),
        "folder": str(done.folder),
        "differences": [vars(one) for one in done.differences],
    }


def cost(one: Cost, prices: Prices) -> None:
    """Print what a job cost."""
    table = Table.grid(padding=(0, 2))
    table.add_row("machine", _money(one.machine, prices), f"{one.seconds:.1f} s")
    table.add_row("requests", _money(one.requests, prices), "S3, SQS, Lambda")
    table.add_row("storage", _money(one.storage_month, prices), "a month")
    table.add_row("[bold]together[/]", f"[bold]{_money(one.total, prices)}[/]", prices.machine)
    console.print(table)
    if one.attempts > 1:
        console.print(f"It took {one.attempts} attempts; those before the last are not recorded.")


def months(found: Sequence[Month], prices: Prices) -> None:
    """Print what jobs cost by month."""
    heads = ("month", "pipeline", "jobs", "failed", "retried", "machine hours", "cost", "a job")
    table = Table(*heads, box=None, header_style="dim")
    for month in found:
        counts = (str(month.jobs), str(month.failed), str(month.retried))
        hours = f"{month.seconds / 3600:.2f}"
        each = _money(month.total / month.jobs, prices)
        table.add_row(
            month.month, month.pipeline, *counts, hours, _money(month.total, prices), each
        )
    console.print(table if table.row_count else "[dim]No job has ended yet.[/]")
    console.print(f"[dim]{escape(prices.about)}[/]")


def findings(found: Sequence[Finding]) -> None:
    """Print what is wrong."""
    styles = {"error": "red", "warning": "yellow", "note": "dim"}
    for one in found:
        style = styles[one.level.value]
        console.print(f"[{style}]{one.level.value}[/] [dim]{one.check}[/]  {escape(one.what)}")
        console.print(f"    why     {escape(one.why)}")
        console.print(f"    to do   {escape(one.remedy)}")
    if not found:
        console.print("[green]Nothing is wrong.[/]")


def traces(found: Traces) -> None:
    """Print what is kept of a name."""
    table = Table.grid(padding=(0, 2))
    for part, count in found.to_dict().items():
        if part not in {"name", "gone"}:
            table.add_row(part, str(count), _MEANING[part])
    console.print(f"Kept of [bold]{escape(found.name)}[/]:")
    console.print(table)


def untraced(found: Traces, others: Alike) -> None:
    """Print that nothing was found of a name, and what else may have been meant."""
    console.print(
        f"[yellow]Nothing was found of {escape(found.name)}.[/] "
        "It is forgotten already, or it is called otherwise."
    )
    if found.waiting:
        console.print(f"The job queues hold {found.waiting} messages, which may be of it.")
    if others.names:
        console.print(f"Names that end in /{escape(found.name)}:")
        for other in others.names:
            console.print(f"    {escape(other)}", soft_wrap=True)
    if not others.complete:
        console.print("There are too many to look at all of them: there may be more.")


def forgotten(found: Traces) -> None:
    """Print whether a name is forgotten."""
    if found.gone:
        console.print(f"[green]Looked again: nothing is kept of {escape(found.name)}.[/]")
        console.print("Log lines that hold the name go with their log group's retention.")
        return
    traces(found)
    if found.waiting and not found.kept:
        console.print(
            f"The job queues hold {found.waiting} messages, which may be of it. "
            "Run this again when they are empty (--wait 30m)."
        )


_MEANING = {
    "inputs": "versions in the input bucket",
    "outputs": "versions in the output bucket",
    "states": "versions of Celery's states",
    "records": "versions of the web tier's records and webhooks",
    "dead": "dead letters",
    "events": "undelivered events",
    "waiting": "messages in the job queues, of any name",
}


def _age(age_s: float) -> str:
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if age_s >= 2 * length_s:
            return f"{age_s / length_s:.0f} {unit}"
    return f"{max(0.0, age_s):.0f} s"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _money(amount: float, prices: Prices) -> str:
    return f"{amount:.6f} {prices.currency}" if amount < 0.1 else f"{amount:.2f} {prices.currency}"
