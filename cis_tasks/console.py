"""What the command line shows of jobs: progress, records, tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from cis_tasks.manifest import Manifest
from scaling.backlog import Backlog

if TYPE_CHECKING:
    from cis_tasks.lookup import Whereabouts

STYLES = {"succeeded": "green", "failed": "red", "given up": "red", "retrying": "yellow"}

WIDE = 160  # where nobody's terminal says how wide it is, as in a log: tables are not cut there
HEIGHT = 25


def _console(stream: TextIO) -> Console:
    if stream.isatty():
        return Console(stderr=stream is sys.stderr)
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdigit() else WIDE
    # with both given, rich asks no terminal: it takes a dumb one for 80 columns wide
    return Console(stderr=stream is sys.stderr, width=width, height=HEIGHT)


console = _console(sys.stdout)
errors = _console(sys.stderr)


class StageBars:
    """A bar for each stage of a job; a new stage fills those before it. A `jobs.Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def __call__(self, stage: str, fraction: float = 0.0) -> None:
        """Show that ``stage`` has come as far as ``fraction``."""
        if stage not in self._bars:
            self.fill()
            self._bars[stage] = self._progress.add_task(stage, total=1.0)
        self._progress.update(self._bars[stage], completed=fraction)

    def fill(self) -> None:
        """Show every stage as done."""
        for bar in self._bars.values():
            self._progress.update(bar, completed=1.0)


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[StageBars]:
    """Bars for the stages of something that runs inside the block."""
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=quiet) as progress:
        yield StageBars(progress)


@contextmanager
def uploading(total: int) -> Iterator[Callable[[int], None]]:
    """A bar for an upload of ``total`` bytes; gives what is told of each further number."""
    columns = (TextColumn("upload"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        bar = progress.add_task("upload", total=total)
        yield lambda more: progress.update(bar, advance=more)


def show(where: Whereabouts) -> None:
    """Print where a job is and, once it has ended, its record."""
    style = STYLES.get(where.phase, "cyan")
    console.print(f"[bold]{where.job_id}[/]  [{style}]{where.phase}[/]  {_stage(where)}")
    if where.note:
        console.print(f"  {escape(where.note)}")
    if where.phase == "unknown":
        console.print("  It waits in its queue, or there is no such job.")
    if where.manifest is not None:
        show_manifest(where.manifest)


def show_manifest(manifest: Manifest) -> None:
    """Print a job's record."""
    table = Table.grid(padding=(0, 2))
    table.add_row("name", escape(f"{manifest.job['pipeline']}/{manifest.job['name']}"))
    if manifest.error is not None:
        table.add_row("error", f"[red]{escape(manifest.error.code)}[/]")
        table.add_row("", escape(manifest.error.message))
        table.add_row("to do", escape(manifest.error.hint))
    if manifest.model is not None:
        table.add_row("model", escape(f"{manifest.model.name} {manifest.model.version}"))
    table.add_row("attempt", f"{manifest.attempt} on {escape(manifest.worker)}")
    table.add_row("ended", f"{manifest.finished_at:%Y-%m-%d %H:%M:%S} UTC")
    table.add_row("stages", stage_seconds(manifest))
    for name, output in manifest.outputs.items():
        table.add_row("file", f"{escape(name)}  [dim]{output.size:,} bytes[/]")
    table.add_row("manifest", escape(manifest.url))
    console.print(table)


def stage_seconds(manifest: Manifest) -> str:
    """The job's stages, each with its seconds."""
    return ", ".join(f"{escape(k)} {v:.1f} s" for k, v in manifest.timings_s.items())


def show_recent(manifests: Iterable[Manifest]) -> None:
    """Print one line per job."""
    table = Table("job", "name", "status", "ended (UTC)", box=None, header_style="dim")
    for m in manifests:
        style = STYLES[m.status]
        what = m.status if m.error is None else f"{m.status}: {m.error.code}"
        name = escape(f"{m.job['pipeline']}/{m.job['name']}")
        table.add_row(m.job_id, name, f"[{style}]{escape(what)}[/]", f"{m.finished_at:%F %T}")
    console.print(table if table.row_count else "[dim]No job has ended yet.[/]")


def backlog_table(backlogs: Mapping[str, Backlog]) -> Table:
    """Queues as a table."""
    table = Table("queue", "waiting", "running", box=None, header_style="dim")
    for name, backlog in backlogs.items():
        table.add_row(name, str(backlog.visible), str(backlog.in_flight))
    return table


def _stage(where: Whereabouts) -> str:
    if where.phase != "running":
        return ""
    done = f" {where.fraction:.0%}" if where.fraction else ""
    return f"{escape(where.stage)}{done}"
