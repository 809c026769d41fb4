"""``cis up``, ``demo``, ``sample``: all of it on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cis_tasks.errors import PermanentError

State = Annotated[Path, typer.Option(help="Folder for logs and files of the laptop cloud.")]


def register(app: typer.Typer) -> None:
    """Add these commands to ``cis``."""
    for command in (up, demo, sample):
        app.command(rich_help_panel="On a laptop")(command)


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


def demo(
    pipeline: Annotated[str, typer.Argument(help="spine or image.")] = "spine",
    photographs: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, dir_okay=False, help="For image: files of your own."),
    ] = None,
    state: State = Path(".cis/demo"),
) -> None:
    """Run a job end to end on the embedded AWS: a session with its known truth, or photographs."""
    from cis_tasks.local import demo as of_spine
    from cis_tasks.local import demo_image as of_images

    demos = {
        "spine": lambda: of_spine.run(state),
        "image": lambda: of_images.run(state, photographs or ()),
    }
    if pipeline not in demos:
        raise PermanentError("no_demo", f"There is no demo of {pipeline!r}.", "Try spine or image.")
    raise typer.Exit(0 if demos[pipeline]() else 1)


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
