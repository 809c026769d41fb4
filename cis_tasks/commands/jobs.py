"""``cis submit``, ``status``, ``results``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cis_tasks.commands.parameters import parameter
from cis_tasks.pipelines import PIPELINES, find

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
JobName = Annotated[str, typer.Argument(help="Job id, or the name of a session.")]


def register(app: typer.Typer) -> None:
    """Add these commands to ``cis``."""
    for command in (submit, status, results):
        app.command(rich_help_panel="Jobs")(command)


def submit(
    files: Annotated[list[str], typer.Argument(help="Local files or s3:// URLs.")],
    *,
    pipeline: Annotated[str, typer.Option(help=f"One of {', '.join(PIPELINES)}.")] = "spine",
    name: Annotated[str | None, typer.Option(help="Name of the job; else the file's.")] = None,
    force: Annotated[bool, typer.Option(help="Run again what has been run.")] = False,
    param: Annotated[
        list[str] | None, typer.Option(help="Parameter of the pipeline, as KEY=VALUE.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow the job to its end.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Longest wait, in seconds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload the files of one job and queue it. Exits 1 where the job fails under --wait.

    Where a job of the pipeline has one file, as for images, each file is a job of its own.
    """
    from cis_tasks.console import console, uploading
    from cis_tasks.submission import prepare, publish_jobs

    params = dict(parameter(text) for text in param or ())
    each_its_own = len(find(pipeline).roles) == 1
    batch = [[file] for file in files] if each_its_own else [files]
    if len(batch) > 1 and (name or wait):
        raise typer.BadParameter("--name and --wait are for one job.", param_hint="files")
    local = [Path(file) for file in files if not file.startswith("s3://")]
    with uploading(sum(path.stat().st_size for path in local if path.is_file())) as on_bytes:
        jobs = [
            prepare(pipeline, own, name=name, force=force, on_bytes=on_bytes, **params)
            for own in batch
        ]
    for submitted in publish_jobs(jobs):
        if submitted.error is not None:
            raise submitted.error
    if wait:
        _wait(jobs[0].id, timeout, as_json)
        return
    for job in jobs:
        console.print_json(json.dumps({"job_id": job.id})) if as_json else console.print(job.id)


def status(
    job: Annotated[str | None, typer.Argument(help="Job id, or the name of a session.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one job, or the queues and the newest jobs."""
    from cis_tasks import aws
    from cis_tasks.console import backlog_table, console, show, show_recent
    from cis_tasks.lookup import locate, recent
    from scaling.backlog import read_backlog

    if job is not None:
        where = locate(job)
        console.print_json(json.dumps(_as_json(where))) if as_json else show(where)
        return
    backlogs = {p.queue: read_backlog(aws.sqs(), aws.queue_url(p)) for p in PIPELINES.values()}
    manifests = recent()
    if as_json:
        console.print_json(
            json.dumps(
                {
                    "queues": {name: vars(b) for name, b in backlogs.items()},
                    "jobs": [m.model_dump(mode="json") for m in manifests],
                }
            )
        )
        return
    console.print(backlog_table(backlogs))
    console.print()
    show_recent(manifests)


def results(
    job: JobName,
    to: Annotated[Path | None, typer.Option(help="Download the files into this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's answer; with --to, download its files and check their checksums."""
    from cis_tasks import aws
    from cis_tasks.console import console, show
    from cis_tasks.lookup import locate
    from cis_tasks.storage import retrieve

    where = locate(job)
    if where.manifest is None:
        show(where)
        raise typer.Exit(1)
    paths = retrieve(aws.s3(), where.manifest, to) if to is not None else []
    if as_json:
        console.print_json(where.manifest.model_dump_json())
    else:
        show(where)
        console.print_json(json.dumps(where.manifest.result))
        for path in paths:
            console.print(escape(str(path)))
    raise typer.Exit(0 if where.phase == "succeeded" else 1)


def _wait(job_id: str, timeout_s: float | None, as_json: bool) -> None:
    from cis_tasks.console import console, show
    from cis_tasks.following import follow

    if not as_json:
        console.print(f"job {job_id}")
    where = follow(job_id, timeout_s, quiet=as_json)
    console.print_json(json.dumps(_as_json(where))) if as_json else show(where)
    raise typer.Exit(0 if where.phase == "succeeded" else 1)


def _as_json(where: Any) -> dict[str, Any]:
    return {
        "job_id": where.job_id,
        "phase": where.phase,
        "stage": where.stage,
        "fraction": where.fraction,
        "note": where.note,
        "manifest": where.manifest.model_dump(mode="json") if where.manifest else None,
    }
