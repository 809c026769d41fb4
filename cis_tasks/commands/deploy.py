"""``cis deploy``: package, check, show what would change, change it, tell the outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from cis_tasks.errors import SettingsError

if TYPE_CHECKING:
    from cis_tasks.deployment.stacks import Plan

DEFAULT = ["app", "monitoring"]


def register(app: typer.Typer) -> None:
    """Add this command to ``cis``."""
    app.command(rich_help_panel="Machines")(deploy)


def deploy(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="Of keys, network, app, monitoring, web, image; app and monitoring."),
    ] = None,
    *,
    stack: Annotated[str, typer.Option(help="Name of the stack; others begin with it.")] = (
        "cis-tasks"
    ),
    code_bucket: Annotated[
        str, typer.Option(help="Bucket for code; made where it does not exist.")
    ] = "",
    parameters: Annotated[
        Path | None, typer.Option(help="JSON file of the templates' parameters.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter, as NAME=VALUE.")
    ] = None,
    wheels: Annotated[
        Path | None, typer.Option(help="Folder of wheels that machines install instead of PyPI.")
    ] = None,
    environment: Annotated[
        Path | None, typer.Option(help="Write the settings of cis for this installation here.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show what would change, and change nothing.")] = (
        False
    ),
) -> None:
    """Make or update the stacks on AWS, after showing what would change (docs/deploy.md)."""
    from cis_tasks.console import console
    from cis_tasks.deployment.parts import chosen, gathered, upload
    from cis_tasks.deployment.stacks import LackingError

    wanted = chosen(parts or DEFAULT)
    own = _parameters(parameters, given or [])
    stacks = _stacks()
    code: dict[str, str] = {}
    if any(part.code for part in wanted):
        bucket = code_bucket or own.get("CodeBucket") or _code_bucket()
        code = upload(bucket, wheels)
    for part in wanted:
        name, template = stack + part.suffix, _template(part.file)
        values = {**gathered(stacks, stack, part), **code, **own}
        try:
            plan = stacks.plan(name, template, values)
        except LackingError as error:
            if not dry_run:
                raise
            console.print(escape(str(error)), soft_wrap=True)  # what it needs does not stand yet
            continue
        _show(plan)
        if not plan.changes or dry_run:
            stacks.drop(plan)
        elif yes or typer.confirm(f"Carry this out on {name}?"):
            stacks.apply(plan)
        else:
            stacks.drop(plan)
            raise typer.Exit(1)
        _tell(name, stacks.outputs(name))
    if environment is not None:
        _write(environment, stack)


def _parameters(file: Path | None, given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    if file is not None:
        try:
            found = {str(k): str(v) for k, v in json.loads(file.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError) as error:
            raise SettingsError(f"{file} is not a JSON file of names and values: {error}") from None
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
        found[name] = value
    return found


def _stacks() -> Any:
    import boto3

    from cis_tasks.deployment.stacks import Stacks

    local = "AWS_ENDPOINT_URL" in os.environ
    return Stacks(boto3.client("cloudformation"), delay_s=0.2 if local else 5)


def _code_bucket() -> str:
    """A name that is the account's own, as bucket names are unique in all of AWS."""
    import boto3

    identity = boto3.client("sts").get_caller_identity()
    return f"cis-tasks-code-{identity['Account']}-{boto3.session.Session().region_name}"


def _template(file: str) -> str:
    from cis_tasks.deployment.bundle import checkout

    return (checkout() / "deploy" / file).read_text(encoding="utf-8")


def _write(file: Path, stack: str) -> None:
    from cis_tasks.local.environment import write_script
    from cis_tasks.local.stack import Deployer

    write_script(Deployer().find(stack).environment, file)


def _show(plan: Plan) -> None:
    from rich.table import Table

    from cis_tasks.console import console

    if not plan.changes:
        console.print(f"[bold]{escape(plan.stack)}[/]  nothing to change")
        return
    verb = "would be made" if plan.creates else "would change"
    table = Table("", "resource", "type", "made anew", box=None, header_style="dim")
    for change in plan.changes:
        table.add_row(change.action, change.name, change.kind, change.replacement)
    console.print(f"[bold]{escape(plan.stack)}[/]  {verb}:")
    console.print(table)


def _tell(name: str, outputs: dict[str, str]) -> None:
    from cis_tasks.console import console

    for key, value in sorted(outputs.items()):
        console.print(f"{escape(name)}  {key} = {escape(value)}", soft_wrap=True, highlight=False)
