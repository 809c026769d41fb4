"""``cis worker``, ``flower``, ``web``, ``token``: what runs on machines."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cis_tasks.pipelines import PIPELINES, find

PANEL = "Machines"
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Add these commands to ``cis``."""
    app.command(rich_help_panel=PANEL, context_settings=PASSED_ON)(worker)
    settings = {**PASSED_ON, "help_option_names": []}
    app.command(rich_help_panel=PANEL, context_settings=settings)(flower)
    app.command(rich_help_panel=PANEL)(web)
    app.command(rich_help_panel=PANEL)(token)


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


def flower(context: typer.Context) -> None:
    """Serve the Flower dashboard on 127.0.0.1:5555, behind a password.

    Further arguments are Flower's; `cis flower --help` lists them.
    """
    from cis_tasks.app import app as celery_app
    from cis_tasks.broker.flower import run

    run(context.args, celery_app)


def web(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    processes: Annotated[int | None, typer.Option(help="Server processes.")] = None,
) -> None:
    """Serve the HTTP API and the page, on 127.0.0.1:8080 unless told otherwise.

    Options are CIS_WEB_HOST, CIS_WEB_PORT and CIS_WEB_PROCESSES as well; docs/http.md has the
    other settings.
    """
    given = {"HOST": host, "PORT": port, "PROCESSES": processes}
    os.environ.update({f"CIS_WEB_{k}": str(v) for k, v in given.items() if v is not None})
    from cis_tasks.web.server import serve

    serve()


def token(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
) -> None:
    """Make an API token: the token itself, and its line for the file CIS_WEB_TOKENS_FILE."""
    from cis_tasks.web.tokens import make_token

    try:
        text, made = make_token(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(f"token  {text}")
    typer.echo(f"line   {made.line}")
