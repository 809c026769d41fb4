"""``cis spine`` and ``cis rig``: calibrations of local files, without AWS."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cis_tasks.commands.parameters import parameter
from cis_tasks.errors import PermanentError

rig_app = typer.Typer(
    help="Make a rig: calibrate the camera, print tags, check the file.", no_args_is_help=True
)

Paper = Annotated[str, typer.Option(help="a4 or letter.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def register(app: typer.Typer) -> None:
    """Add these commands to ``cis``."""
    app.add_typer(rig_app, name="rig", rich_help_panel="On local files")
    app.command(rich_help_panel="On local files")(spine)


def spine(
    sensors: Annotated[
        Path, typer.Argument(help="Recording: a file, a zip or folder of one per sensor.")
    ],
    video: Annotated[Path, typer.Argument(help="Video of the tags.")],
    *,
    rig: Annotated[
        Path | None, typer.Option(help="Rig; else the .json beside the recording.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    refine: Annotated[
        bool | None,
        typer.Option(help="Refine corners on the pixels; slow without a GPU.", show_default=False),
    ] = None,
    overlay: Annotated[bool, typer.Option(help="Draw the result on the video too.")] = False,
    param: Annotated[
        list[str] | None, typer.Option(help="Parameter of the pipeline, as KEY=VALUE.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Calibrate one session from local files.

    Exits 1 where the input is bad or a quality check fails; the report then shows why.
    """
    params = dict(parameter(text) for text in param or ())
    if refine is not None:
        params["refine"] = "photometric" if refine else "apriltag"
    inputs = {
        "sensor_data": _existing(sensors),
        "video_footage": _existing(video),
        "rig": _existing(rig or _beside(sensors)),
    }
    if overlay:
        params["overlay"] = True
    _calibrate(inputs, out, params, as_json=as_json)


@rig_app.command()
def calibrate(
    video: Annotated[Path, typer.Argument(help="Video of the printed board.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Rig to put the camera into; made where there is none.")
    ] = None,
    columns: Annotated[int, typer.Option(help="Squares across.")] = 5,
    rows: Annotated[int, typer.Option(help="Squares down.")] = 7,
    square_mm: Annotated[float, typer.Option(help="Side of a square, as measured.")] = 35.0,
    marker_mm: Annotated[float, typer.Option(help="Side of a marker, as measured.")] = 26.0,
    readout_ms: Annotated[
        float, typer.Option(help="Rolling shutter: time from the first to the last row.")
    ] = 0.0,
) -> None:
    """Find the camera's values from a video of the board that `cis rig board` prints."""
    from cis_tasks.console import console, stages
    from cis_tasks.spine.rigging.board import Board, calibrate_camera

    board = Board(columns, rows, square_mm / 1e3, marker_mm / 1e3)
    with stages() as progress:
        fit = calibrate_camera(_existing(video), board, progress)
    camera = fit.camera.model_copy(update={"readout_s": readout_ms / 1e3})
    console.print(
        f"{fit.views} views, corners off by {fit.error_px:.2f} px, focal length "
        f"{camera.matrix[0][0]:.1f} px ± {100 * fit.focal_sd:.2f} %, "
        f"{camera.field_of_view_deg:.1f}° wide"
    )
    for warning in fit.warnings:
        console.print(f"[yellow]to note:[/] {escape(warning)}")
    values = json.loads(camera.model_dump_json())
    if out is None:
        console.print_json(json.dumps({"camera": values}))
        return
    out.write_text(json.dumps(_with_camera(out, values), indent=1) + "\n", encoding="utf-8")
    console.print(f"written into {escape(str(out))}")


@rig_app.command()
def tags(
    out: Annotated[Path, typer.Argument(help="PDF to write.")],
    *,
    rig: Annotated[Path | None, typer.Option(help="Print this rig's tags, with names.")] = None,
    ids: Annotated[str, typer.Option(help="Without a rig: ids, as in 0-3,7.")] = "0-3",
    family: Annotated[str, typer.Option(help="Without a rig: AprilTag family.")] = "36h11",
    size_mm: Annotated[float, typer.Option(help="Without a rig: black square.")] = 60.0,
    paper: Paper = "a4",
) -> None:
    """Write tags to print at true size, with a bar to check it."""
    from cis_tasks.console import console
    from cis_tasks.spine.rig import FAMILY_SIZES, read_rig
    from cis_tasks.spine.rigging.sheets import Label, labels_of, write_tags

    if rig is not None:
        known = read_rig(_existing(rig))
        pages = write_tags(out, known.tag_family, known.tag_size_m, labels_of(known), paper)
    elif family in FAMILY_SIZES:
        wanted = [Label(number) for number in _numbers(ids)]
        pages = write_tags(out, family, size_mm / 1e3, wanted, paper)  # type: ignore[arg-type]
    else:
        raise typer.BadParameter(f"one of {', '.join(FAMILY_SIZES)}", param_hint="--family")
    console.print(f"{pages} page{'s' * (pages != 1)} in {escape(str(out))}; print at 100 %")


@rig_app.command()
def board(
    out: Annotated[Path, typer.Argument(help="PDF to write.")],
    paper: Paper = "a4",
) -> None:
    """Write the board for `cis rig calibrate` to print at true size."""
    from cis_tasks.console import console
    from cis_tasks.spine.rigging.sheets import write_board

    write_board(out, paper=paper)
    console.print(f"1 page in {escape(str(out))}; print at 100 %, glue it to something flat")


@rig_app.command()
def check(rig: Annotated[Path, typer.Argument(help="Rig file.")]) -> None:
    """Say what a rig holds, and what in it may not be meant. Exits 1 where it cannot be used."""
    from cis_tasks.console import console
    from cis_tasks.spine.rig import read_rig
    from cis_tasks.spine.rigging.advice import advise, describe

    known = read_rig(_existing(rig))
    for line in describe(known):
        console.print(escape(line))
    for note in advise(known):
        console.print(f"[yellow]to note:[/] {escape(note)}")
    console.print("[green]This rig can be used.[/]")


def _calibrate(
    inputs: Mapping[str, Path], out: Path, params: dict[str, Any], *, as_json: bool
) -> None:
    from cis_tasks.commands.calibration import show_calibration
    from cis_tasks.console import console, stages
    from cis_tasks.spine.pipeline import run

    with stages(quiet=as_json) as progress:
        try:
            outcome = run(inputs, out, params, progress)
        except PermanentError as error:
            if as_json:
                console.print_json(json.dumps({"error": _as_json(error)}))
                raise typer.Exit(1) from error
            if (out / "report.html").exists():
                console.print(f"See why in {escape(str(out / 'report.html'))}")
            raise
        progress.fill()
    if as_json:
        files = [str(path) for path in outcome.files]
        console.print_json(json.dumps({"result": outcome.summary, "files": files}))
    else:
        show_calibration(outcome.summary, outcome.files)


def _as_json(error: PermanentError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def _existing(path: Path) -> Path:
    if not path.exists():
        raise PermanentError(
            "file_missing", f"There is no file {path}.", "Check its name and folder."
        )
    return path


def _beside(sensors: Path) -> Path:
    found = sensors.with_suffix(".json")
    if not found.exists():
        raise PermanentError(
            "rig_missing",
            f"There is no rig: neither --rig nor {found}.",
            "`cis rig calibrate VIDEO --out RIG` makes one; docs/spine-formats.md explains it.",
        )
    return found


def _with_camera(path: Path, camera: dict[str, Any]) -> dict[str, Any]:
    """The rig in ``path`` with its camera exchanged, or one to be filled in."""
    if not path.exists():
        tags = {
            "0": {"sensor": "imu1", "segment": "sacrum"},
            "1": {"sensor": "imu2", "segment": "L1"},
        }
        return {"camera": camera, "tag_family": "36h11", "tag_size_m": 0.06, "tags": tags}
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise PermanentError(
            "rig_unreadable",
            f"The rig {path.name} is not valid JSON: {error}.",
            "Correct it, or give --out another name.",
        ) from error
    return {**known, "camera": camera}


def _numbers(text: str) -> list[int]:
    """``0-3,7`` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise typer.BadParameter(f"{text!r} is not of the form 0-3,7", param_hint="--ids")
        found += range(int(first), int(last or first) + 1)
    return found
