"""``cis doctor``, ``dlq``, ``replay``, ``sweep``, ``cancel``, ``purge``, ``cost``, ``forget``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape

from cis_tasks.errors import PermanentError
from cis_tasks.pipelines import PIPELINES, Pipeline, find

if TYPE_CHECKING:
    from cis_tasks.operations.forget import Traces

PANEL = "Operations"

dlq = typer.Typer(help="Dead letters: jobs that were given up.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for the name to be typed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")]
Which = Annotated[
    str | None, typer.Option("--pipeline", help=f"One of {', '.join(PIPELINES)}; else all.")
]
Name = Annotated[str, typer.Option(help="Pattern of the job's name, with * and ?.")]
Error = Annotated[str, typer.Option(help="Text in the error's code or message.")]
OlderThan = Annotated[str, typer.Option(help="Dead for at least this long, as 90s, 5m, 2h or 3d.")]
NewerThan = Annotated[str, typer.Option(help="Dead for at most this long.")]
Rate = Annotated[float, typer.Option(min=0.1, max=100.0, help="At most so many a second.")]

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def register(app: typer.Typer) -> None:
    """Add these commands to ``cis``."""
    app.add_typer(dlq, name="dlq", rich_help_panel=PANEL)
    for command in (cancel, cost, doctor, forget, purge, replay, sweep):
        app.command(rich_help_panel=PANEL)(command)


@dlq.command("list")
def list_(
    *,
    pipeline: Which = None,
    name: Name = "",
    error: Error = "",
    older_than: OlderThan = "",
    newer_than: NewerThan = "",
    limit: Annotated[
        int, typer.Option(min=1, help="Look at no more than so many of each queue.")
    ] = 1000,
    as_json: AsJson = False,
) -> None:
    """List dead letters, oldest first. They are hidden from others for the moment of looking."""
    from cis_tasks.operations import dead_letters, show

    wanted = dead_letters.Filter(
        name=name, error=error, **_ages(older_than=older_than, newer_than=newer_than)
    )
    found = dead_letters.browse(_pipelines(pipeline), wanted, limit=limit)
    show.values([dead.to_dict() for dead in found]) if as_json else show.letters(found)


@dlq.command("show")
def show_(
    letter: Annotated[str, typer.Argument(help="Job or message id.")], as_json: AsJson = False
) -> None:
    """Show one dead letter: its job, its attempts, why it was given up."""
    from cis_tasks.operations import dead_letters, show

    dead = dead_letters.find(letter)
    show.values(dead.to_dict()) if as_json else show.letter(dead)


@dlq.command()
def redrive(
    letters: Annotated[
        list[str] | None, typer.Argument(help="Job or message ids; else all that pass.")
    ] = None,
    *,
    pipeline: Which = None,
    name: Name = "",
    error: Error = "",
    older_than: OlderThan = "",
    newer_than: NewerThan = "",
    rate: Rate = 5.0,
    canary: Annotated[bool, typer.Option(help="Let one succeed before the others go.")] = True,
    canary_timeout: Annotated[str, typer.Option(help="Longest wait for it.")] = "1h",
    dry_run: DryRun = False,
) -> None:
    """Put dead letters back into their job queue. A kill in the middle loses nothing."""
    from cis_tasks.console import console
    from cis_tasks.operations import dead_letters, show
    from cis_tasks.operations.redrive import redrive as move

    wanted = dead_letters.Filter(
        ids=frozenset(letters or ()),
        name=name,
        error=error,
        **_ages(older_than=older_than, newer_than=newer_than),
    )
    if dry_run:
        show.letters(dead_letters.browse(_pipelines(pipeline), wanted))
        console.print("Nothing was moved.")
        return
    count = 0
    for each in _pipelines(pipeline):
        canary_s = seconds(canary_timeout) if canary else None
        moved = move(each, wanted, per_s=rate, canary_s=canary_s, tell=console.print)
        count += len(moved.moved)
    console.print(f"{count} moved.")


def replay(
    job: Annotated[str, typer.Argument(help="Job id, or the name of a session.")],
    to: Annotated[Path, typer.Option(help="Folder for inputs and outputs.")] = Path(".cis/replay"),
    *,
    debug: Annotated[bool, typer.Option(help="Stop in pdb at the pipeline's first line.")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="Share by which numbers differ.")] = 1e-6,
    as_json: AsJson = False,
) -> None:
    """Run a job again here on its very inputs, and compare. Exits 1 where something differs."""
    from cis_tasks.console import stages
    from cis_tasks.jobs import no_progress
    from cis_tasks.operations import show
    from cis_tasks.operations.replay import replay as run

    if debug:  # bars would draw over the debugger
        done = run(job, to, debug=True, tolerance=tolerance, progress=no_progress)
    else:
        with stages(quiet=as_json) as bars:
            done = run(job, to, tolerance=tolerance, progress=bars)
            bars.fill()
    show.values(show.replay_as_json(done)) if as_json else show.replay(done)
    raise typer.Exit(1 if done.differences else 0)


def sweep(
    *,
    pipeline: Which = None,
    name: Annotated[str, typer.Option(help="Pattern of the names, with * and ?.")] = "*",
    older_than: Annotated[
        str, typer.Option(help="Leave out what was uploaded later: it is queued, most likely.")
    ] = "15m",
    rate: Rate = 5.0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Find complete inputs without a result, and queue their jobs. Dead letters are left alone."""
    from cis_tasks.console import console
    from cis_tasks.operations import show
    from cis_tasks.operations.sweep import publish_slowly, unanswered

    jobs = list(unanswered(_pipelines(pipeline), name=name, older_than_s=seconds(older_than)))
    if not dry_run:
        publish_slowly(jobs, rate)
    if as_json:
        told = [{"job_id": job.id, "pipeline": job.pipeline, "name": job.name} for job in jobs]
        show.values({"published": not dry_run, "jobs": told})
        return
    for job in jobs:
        console.print(f"{job.id}  {escape(f'{job.pipeline}/{job.name}')}")
    console.print(f"{len(jobs)} {'would be queued' if dry_run else 'queued'}.")


def cancel(
    job: Annotated[str, typer.Argument(help="Job id, or the name of a session.")],
    as_json: AsJson = False,
) -> None:
    """End a job for good, whether it waits or runs. Its record then says that it was cancelled."""
    from cis_tasks.console import console
    from cis_tasks.operations import show
    from cis_tasks.operations.cancel import cancel as end

    done = end(job)
    if as_json:
        show.values(done.manifest.model_dump(mode="json"))
    else:
        console.print(f"{done.manifest.job_id} is cancelled.")


def purge(
    queue: Annotated[str, typer.Argument(help="A pipeline, or the name of a queue of one.")],
    *,
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="The pipeline's dead letters instead.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Delete all messages of a queue: their jobs are not done. `cis sweep` can find them again."""
    from cis_tasks.console import console
    from cis_tasks.operations.purge import purge as empty
    from cis_tasks.operations.purge import target

    found = target(queue, dead=dead_letters)
    backlog = found.backlog
    console.print(f"{found.name}: {backlog.visible} waiting, {backlog.in_flight} running.")
    if dry_run:
        return
    _make_sure(found.name, yes=yes)
    empty(found)
    console.print(f"{found.name} is being emptied; SQS takes up to 60 s.")


def cost(
    job: Annotated[str | None, typer.Argument(help="Job id or name; else all, by month.")] = None,
    prices: Annotated[Path | None, typer.Option(help="File of prices; else our own.")] = None,
    since: Annotated[str, typer.Option(help="Only jobs that ended within, as 30d.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say what jobs cost, from the seconds and bytes in their records and a file of prices."""
    from cis_tasks.lookup import locate
    from cis_tasks.operations import show
    from cis_tasks.operations.cost import by_month, price, read_prices, records

    paid = read_prices(prices)
    if job is not None:
        manifest = locate(job).manifest
        if manifest is None:
            raise PermanentError("job_not_ended", f"The job {job} has not ended yet.", "")
        one = price(manifest, paid)
        show.values(one.to_dict()) if as_json else show.cost(one, paid)
        return
    start = datetime.now(UTC) - timedelta(seconds=seconds(since)) if since else None
    months = by_month(price(manifest, paid) for manifest in records(start))
    show.values([vars(month) for month in months]) if as_json else show.months(months, paid)


def doctor(
    only: Annotated[
        list[str] | None, typer.Argument(help="Families of checks, such as queues; else all.")
    ] = None,
    *,
    offline: Annotated[
        bool, typer.Option(help="Only the configuration, as before a start.")
    ] = False,
    strict: Annotated[bool, typer.Option(help="Exit 1 for warnings too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Examine the installation: what is wrong, why it matters, how to mend it.

    Exits 1 where something is wrong. Nothing is changed.
    """
    from cis_tasks.operations import show
    from cis_tasks.operations.doctor.examination import families, run
    from cis_tasks.operations.doctor.registry import Level

    unknown = set(only or ()) - set(families())
    if unknown:
        known = ", ".join(families())
        raise typer.BadParameter(f"no checks are called {', '.join(unknown)}; there are {known}")
    found = run(only or (), offline=offline)
    show.values([finding.to_dict() for finding in found]) if as_json else show.findings(found)
    bad = {Level.ERROR, Level.WARNING} if strict else {Level.ERROR}
    raise typer.Exit(1 if any(finding.level in bad for finding in found) else 0)


def forget(
    name: Annotated[str, typer.Argument(help="Name of a session or image, folders included.")],
    *,
    wait: Annotated[str, typer.Option(help="Wait so long for the job queues to empty.")] = "0s",
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete every input, output, version, state and dead letter of a name, and look again.

    Exits 1 where it is not proved that nothing is left, and where nothing was found: then it lists
    names that end in this one.
    """
    from cis_tasks.operations import show
    from cis_tasks.operations.forget import forget as delete
    from cis_tasks.operations.forget import traces

    before = traces(name)
    if not before.kept and (dry_run or not before.waiting):
        _tell_untraced(before, as_json=as_json)
    if dry_run:
        show.values(before.to_dict()) if as_json else show.traces(before)
        return
    if not as_json:
        show.traces(before)
    _make_sure(name, yes=yes)
    done = delete(name, wait_s=seconds(wait))
    if not done.found.kept and done.left.gone:
        _tell_untraced(done.left, as_json=as_json)
    show.values(done.left.to_dict()) if as_json else show.forgotten(done.left)
    raise typer.Exit(0 if done.proved else 1)


def seconds(text: str) -> float:
    """A time such as ``90s``, ``5m``, ``2h``, ``3d`` or ``90`` in seconds.

    Raises:
        typer.BadParameter: it is none.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS_S else (text, "s")
    try:
        return float(number) * UNITS_S[unit]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; write 90s, 5m, 2h or 3d") from None


def _tell_untraced(found: Traces, *, as_json: bool) -> NoReturn:
    """Say that nothing was found of a name and what else it may be called, and exit with 1."""
    from cis_tasks.operations import show
    from cis_tasks.operations.alike import alike

    others = alike(found.name)
    if as_json:
        show.values(found.to_dict() | {"alike": others.names, "alike_complete": others.complete})
    else:
        show.untraced(found, others)
    raise typer.Exit(1)


def _ages(*, older_than: str, newer_than: str) -> dict[str, Any]:
    return {
        "older_than_s": seconds(older_than) if older_than else 0.0,
        "newer_than_s": seconds(newer_than) if newer_than else float("inf"),
    }


def _pipelines(name: str | None) -> list[Pipeline]:
    return [find(name)] if name else list(PIPELINES.values())


def _make_sure(name: str, *, yes: bool) -> None:
    """Have the name typed back.

    Raises:
        PermanentError: it was not, or nobody is there to type.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise PermanentError(
            "not_confirmed", "Nobody is at the terminal to confirm.", "Add --yes to mean it."
        )
    if typer.prompt(f"Type {name} to go on") != name:
        raise PermanentError("not_confirmed", "The name was not typed.", "Nothing was done.")
