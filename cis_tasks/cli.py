"""``cis``: the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cis_tasks import cli_spine
from cis_tasks.deploy_commands import deploy
from cis_tasks.errors import CisError
from cis_tasks.operations import cli as operations
from cis_tasks.pipelines import PIPELINES, find
from cis_tasks.scaling_commands import app as scaling_app
from cis_tasks.web import server

app = typer.Typer(
    help="Put files in S3, get a GPU model's answer in S3.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(scaling_app, name="scaling", rich_help_panel="Machines")
app.command(rich_help_panel="Machines")(deploy)

State = Annotated[Path, typer.Option(help="Folder for logs and files of the laptop cloud.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
JobName = Annotated[str, typer.Argument(help="Job id, or the name of a session.")]


@app.command(rich_help_panel="On a laptop")
def up(
    *,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes per pipeline.")] = 1,
    maximum: Annotated[
        int | None, typer.Option("--max", min=1, help="Let each group grow to so many instances.")
    ] = None,
    minimum: Annotated[int, typer.Option("--min", min=0, help="With --max: fewest.")] = 1,
    boot: Annotated[float, typer.Option(min=0, help="With --max: an instance's boot, s.")] = 5.0,
    policy: Annotated[str, typer.Option(help="With --max: step, target or slo.")] = "step",
    state: State = Path(".cis/up"),
) -> None:
    """Start the laptop cloud: embedded AWS, stack, workers. Ctrl-C stops it.

    With --max, workers come and go as the stack's own alarms and policies decide, each on an
    instance of its group. With AWS_ENDPOINT_URL set, the stack and the workers use that AWS
    instead.
    """
    from cis_tasks.local.dashboard import run
    from cis_tasks.local.fleet.fleet import Options, Pace, stack_parameters

    if maximum is None:
        run(state, workers)
        return
    parameters = stack_parameters(policy, minimum, maximum)
    run(state, 0, parameters, Options(policy, Pace(boot_s=boot)))


@app.command(rich_help_panel="On a laptop")
def demo(
    pipeline: Annotated[str, typer.Argument(help=f"One of {', '.join(PIPELINES)}.")] = "spine",
    photographs: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, dir_okay=False, help="For image: files of your own."),
    ] = None,
    state: State = Path(".cis/demo"),
) -> None:
    """Run a job end to end on the embedded AWS: a session with its known truth, or photographs."""
    if find(pipeline).name == "image":
        from cis_tasks.local import demo_image

        raise typer.Exit(0 if demo_image.run(state, photographs or ()) else 1)
    from cis_tasks.local.demo import run

    raise typer.Exit(0 if run(state) else 1)


@app.command(rich_help_panel="On a laptop")
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")],
    session: Annotated[str, typer.Option(help="Name of the session.")] = "sample",
    duration: Annotated[float, typer.Option(help="Length in seconds.")] = 12.0,
    seed: Annotated[int, typer.Option(help="Another seed is another session.")] = 0,
) -> None:
    """Write a session to try things with: sensor file, rig, video, and the truth behind them."""
    from cis_tasks.console import console, stages
    from cis_tasks.spine.sample import write_sample

    with stages() as progress:
        made = write_sample(
            folder, session=session, duration_s=duration, seed=seed, progress=progress
        )
    for path in (made.sensor_data, made.rig, made.video_footage, made.truth):
        console.print(escape(str(path)))


@app.command(rich_help_panel="Jobs")
def submit(
    files: Annotated[list[str], typer.Argument(help="Local files or s3:// URLs of one job.")],
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
    """Upload the files of one job and queue it. Exits 1 where the job fails under --wait."""
    from cis_tasks.console import console, uploading
    from cis_tasks.submission import prepare, publish_jobs

    params = dict(_parameter(text) for text in param or ())
    local = [Path(file) for file in files if not file.startswith("s3://")]
    with uploading(sum(path.stat().st_size for path in local if path.is_file())) as on_bytes:
        job = prepare(pipeline, files, name=name, force=force, on_bytes=on_bytes, **params)
    [submitted] = publish_jobs([job])
    if submitted.error is not None:
        raise submitted.error
    if not wait:
        console.print_json(json.dumps({"job_id": job.id})) if as_json else console.print(job.id)
        return
    _wait(job.id, timeout, as_json)


@app.command(rich_help_panel="Jobs")
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


@app.command(rich_help_panel="Jobs")
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


@app.command(
    rich_help_panel="Machines",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def worker(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(help=f"One of {', '.join(PIPELINES)}.")],
) -> None:
    """Run a worker for one pipeline: `celery -A cis_tasks worker -Q <its queue>`.

    Further arguments are Celery's, and count where they differ.
    """
    from cis_tasks.worker.command import celery_options

    command = [sys.executable, "-m", "celery", "-A", "cis_tasks", "worker"]
    command += celery_options(find(pipeline))
    os.execv(sys.executable, [*command, *context.args])  # noqa: S606  no shell is wanted


@app.command(
    rich_help_panel="Machines",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)
def flower(context: typer.Context) -> None:
    """Serve the Flower dashboard on 127.0.0.1:5555, behind a password.

    Further arguments are Flower's; `cis flower --help` lists them.
    """
    from cis_tasks.app import app as celery_app
    from cis_tasks.broker.flower import run

    run(context.args, celery_app)


app.command(rich_help_panel="Machines")(server.web)
app.command(rich_help_panel="Machines")(server.token)
operations.register(app)


def main() -> None:
    """Run ``cis``; what goes wrong is told in one line, not as a traceback."""
    from cis_tasks.console import errors

    try:
        app()
    except CisError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _wait(job_id: str, timeout_s: float | None, as_json: bool) -> None:
    from cis_tasks.console import console, show
    from cis_tasks.following import follow

    if not as_json:
        console.print(f"job {job_id}")
    where = follow(job_id, timeout_s, quiet=as_json)
    console.print_json(json.dumps(_as_json(where))) if as_json else show(where)
    raise typer.Exit(0 if where.phase == "succeeded" else 1)


def _parameter(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``, where the value is JSON or else text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--param")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


cli_spine.register(app, _parameter)


def _as_json(where: Any) -> dict[str, Any]:
    return {
        "job_id": where.job_id,
        "phase": where.phase,
        "stage": where.stage,
        "fraction": where.fraction,
        "note": where.note,
        "manifest": where.manifest.model_dump(mode="json") if where.manifest else None,
    }
