"""The web tier as a process."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

import structlog

from cis_tasks.errors import SettingsError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MAX_FILES = 65_536


def serve() -> None:
    """Serve until SIGINT or SIGTERM; requests under way are answered first.

    Raises:
        SettingsError: a setting makes no sense, or the web tier is not installed.
    """
    try:
        import uvicorn  # noqa: PLC0415

        from cis_tasks.web.settings import web_settings  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"The web tier is not installed ({error}): pip install 'cis-tasks[web]'."
        ) from error
    settings = web_settings()
    set_up_logs()
    allow_many_connections()
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    structlog.get_logger(__name__).info("serving", url=f"http://{shown}:{settings.port}/")
    uvicorn.run(
        "cis_tasks.web.server:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.processes,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=30,
        forwarded_allow_ips="",
    )


def application() -> ASGIApp:
    """The application of one server process, with its logs set up."""
    from cis_tasks.web.app import create_app  # noqa: PLC0415

    set_up_logs()
    return create_app()


def allow_many_connections() -> None:
    """Raise the number of open files as far as is allowed: each waiting client holds one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def set_up_logs() -> None:
    """One line per event on standard error; tracebacks without the values of variables.

    Those could hold a token.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"], bool_as_flag=False
            ),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
