"""``cis``: the command line."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from cis_tasks.commands import deploy, jobs, laptop, machines, operations, scaling, spine
from cis_tasks.errors import CisError

app = typer.Typer(
    help="Put files in S3, get a GPU model's answer in S3.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for family in (laptop, jobs, machines, deploy, scaling, operations, spine):
    family.register(app)


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
