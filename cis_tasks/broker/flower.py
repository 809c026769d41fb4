"""``cis flower``: the dashboard, behind a password and on this machine alone unless told otherwise.

Flower's own command works too (``celery -A app flower``). This one adds what is easily left out:
a password, a database that outlives it, settings under which idle workers stay cheap, and the
queue lengths, which Flower does not know how to ask SQS for.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from celery.app.utils import find_app

from cis_tasks.broker.attention import AFTER_COMMAND_S, PAUSE_S
from cis_tasks.errors import SettingsError

try:
    from flower import command
    from flower.api.tasks import GetQueueLengths
    from flower.app import Flower, rewrite_handler
    from flower.options import options
    from flower.views.broker import BrokerView
    from tornado.ioloop import PeriodicCallback
    from tornado.web import url
except ImportError as error:
    raise SettingsError("Flower is not installed: pip install 'cis-tasks[web]'.") from error

PASSWORD_VARIABLE = "CIS_FLOWER_PASSWORD"  # noqa: S105  its name
MEET_EVERY_S = 1.0
AGAIN_S = 5.0  # a new subscription to SNS may take a moment to work
WAKE_EVERY_S = AFTER_COMMAND_S / 2
COUNTS = {
    "messages_ready": "ApproximateNumberOfMessages",
    "messages_unacknowledged": "ApproximateNumberOfMessagesNotVisible",
}


def run(argv: Sequence[str], app: Celery | None = None) -> None:
    """Serve the dashboard until SIGINT or SIGTERM.

    Args:
        argv: the arguments of ``cis flower``; see ``--help``. What it does not know goes to
            Flower, as ``--option=value``.
        app: the Celery app; else ``--app`` names it.

    Raises:
        SettingsError: there is no app, or a password file cannot be read.
    """
    given, others = _parser(needs_app=app is None).parse_known_args(argv)
    if app is None:
        app = find_app(given.app)
    given.state.mkdir(parents=True, exist_ok=True)
    command.apply_env_options()
    defaults = [
        f"--address={given.address}",
        f"--port={given.port}",
        "--persistent=true",
        f"--db={given.state / 'flower'}",
        "--state_save_interval=60000",  # a SIGKILL loses a minute at most
        "--enable_events=false",  # else every worker gets a command every 5 s
        "--inspect_timeout=2000",
    ]
    command.apply_options("flower", [*defaults, *others])
    password = _set_password(given)
    command.extract_settings()
    command.setup_logging()
    dashboard = Dashboard(capp=app, options=options, **command.settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    port = dashboard.start_http_server()
    print(f"Flower is at http://{given.address}:{port}. {password}", flush=True)
    try:
        dashboard.start()
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        dashboard.stop()


class Dashboard(Flower):  # type: ignore[misc]  # flower is untyped
    """Flower with queue lengths from SQS, and workers that listen while somebody looks.

    Flower refuses actions on workers that it has not inspected, and inspects those that answer
    when it starts. This one inspects the others too, once it hears of them.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        handlers = [url(r"/broker", Queues, name="queues"), url(r"/api/queues/length", Lengths)]
        if self.options.url_prefix:
            handlers = [rewrite_handler(each, self.options.url_prefix) for each in handlers]
        self.add_handlers(".*", handlers)
        self._woken_s = float("-inf")
        self._asked_s: dict[str, float] = {}
        self._meeting = PeriodicCallback(self._meet_workers, MEET_EVERY_S * 1000)

    def start(self) -> None:
        """Serve; workers that do not send task events are asked to."""
        self.io_loop.add_callback(self._tell_workers, "enable_events")
        self.io_loop.call_later(AGAIN_S, self._tell_workers, "heartbeat")
        self._meeting.start()
        super().start()

    def log_request(self, handler: Any) -> None:
        """Keep the workers attentive while somebody opens pages; a page left open does not."""
        super().log_request(handler)
        opened = "text/html" in handler.request.headers.get("Accept", "")
        if opened and time.monotonic() - self._woken_s > WAKE_EVERY_S:
            self._woken_s = time.monotonic()
            self.io_loop.add_callback(self._tell_workers, "heartbeat")

    def _meet_workers(self) -> None:
        now_s = time.monotonic()
        for name, worker in list(self.events.state.workers.items()):
            asked_s = self._asked_s.get(name, float("-inf"))
            if worker.alive and name not in self.workers and now_s - asked_s > PAUSE_S:
                self._asked_s[name] = now_s
                self.update_workers(name)

    async def _tell_workers(self, what: str) -> None:
        await asyncio.to_thread(self.capp.control.broadcast, what)


class SqsQueues:
    """What Flower calls a broker: where queue lengths come from."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """The lengths of the predefined queues among ``names``, in Flower's terms."""
        return await asyncio.to_thread(self._read, names)

    def _read(self, names: Iterable[str]) -> list[dict[str, Any]]:
        with self._app.connection_for_read() as connection:
            channel = connection.default_channel
            return [_lengths(channel, name) for name in names if name in channel.predefined_queues]


class _Sqs:
    def get_broker(self) -> SqsQueues:
        return SqsQueues(self.capp)  # type: ignore[attr-defined]  # the handler's


class Queues(_Sqs, BrokerView):  # type: ignore[misc]  # flower is untyped
    """The page of queues."""


class Lengths(_Sqs, GetQueueLengths):  # type: ignore[misc]  # flower is untyped
    """The same for programs."""


def _lengths(channel: Any, name: str) -> dict[str, Any]:
    answer = channel.sqs(queue=name).get_queue_attributes(
        QueueUrl=channel.predefined_queues[name]["url"], AttributeNames=list(COUNTS.values())
    )
    counts = {ours: int(answer["Attributes"][theirs]) for ours, theirs in COUNTS.items()}
    return {"name": name, "messages": sum(counts.values()), **counts}


def _parser(*, needs_app: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cis flower", description=run.__doc__)
    parser.description = "Dashboard of workers and tasks. Other options go to Flower."
    if needs_app:
        parser.add_argument("-A", "--app", required=True, help="Celery app, as module:attribute")
    parser.add_argument("--address", default="127.0.0.1", help="where to listen (%(default)s)")
    parser.add_argument("--port", type=int, default=5555, help="(%(default)s)")
    parser.add_argument(
        "--state", type=Path, default=Path(".cis/flower"), help="folder kept (%(default)s)"
    )
    parser.add_argument("--user", default="cis", help="name to log in with (%(default)s)")
    parser.add_argument(
        "--password-file",
        type=Path,
        help=f"file with the password; else {PASSWORD_VARIABLE}, else one is made",
    )
    parser.add_argument("--no-auth", action="store_true", help="let everybody in")
    return parser


def _set_password(given: argparse.Namespace) -> str:
    """Set who may log in; what to tell the user about it."""
    if given.no_auth:
        os.environ["FLOWER_UNAUTHENTICATED_API"] = "true"
        return "Everybody who reaches it may do everything."
    if options.basic_auth or options.auth:  # Flower's own options
        return ""
    os.environ.pop("FLOWER_UNAUTHENTICATED_API", None)
    password, told = _password(given.state, given.password_file)
    options.basic_auth = [f"{given.user}:{password}"]
    return f"Log in as {given.user}{told}."


def _password(state: Path, file: Path | None) -> tuple[str, str]:
    if file is not None:
        return _read_password(file), f" with the password in {file}"
    if os.environ.get(PASSWORD_VARIABLE):
        return os.environ[PASSWORD_VARIABLE], f" with the password in {PASSWORD_VARIABLE}"
    kept = state / "password"
    if kept.exists():
        return _read_password(kept), f" with the password in {kept}"
    password = secrets.token_urlsafe(18)
    kept.touch(mode=0o600, exist_ok=False)
    kept.write_text(f"{password}\n")
    return password, f", password {password} (kept in {kept}, not shown again)"


def _read_password(file: Path) -> str:
    try:
        password = file.read_text().strip()
    except OSError as error:
        raise SettingsError(f"The password file {file} cannot be read: {error}.") from error
    if not password:
        raise SettingsError(f"The password file {file} is empty: write the password into it.")
    return password
