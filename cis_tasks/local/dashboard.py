"""``cis up``: the laptop cloud in the foreground, with a status that one can read."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from cis_tasks.local.cloud import Cloud, start
from cis_tasks.local.errors import CloudError
from cis_tasks.local.fleet.fleet import Fleet, Options
from cis_tasks.local.fleet.fleet import start as start_fleet
from cis_tasks.local.fleet.table import tables
from cis_tasks.local.webtier import web_tier
from cis_tasks.local.workers import State

REFRESH_S = 1.0
EVENTS_SHOWN = 8
STYLES = {State.READY: "green", State.FAILED: "red"}

console = Console()


def run(
    state: Path,
    workers: int,
    parameters: Mapping[str, str] | None = None,
    options: Options | None = None,
) -> None:
    """Bring the cloud up, show it until SIGINT or SIGTERM, and take it down.

    Args:
        state: folder for logs and files.
        workers: worker processes per pipeline.
        parameters: further parameters of the template.
        options: run the stack's groups as a fleet, too.

    Raises:
        CloudError: a part could not be started, or ended by itself.
    """
    stop = threading.Event()
    before = {
        kind: signal.signal(kind, lambda *_: _ask_to_stop(stop))
        for kind in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        _show(_Plan(state, workers, parameters, options), stop)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@dataclass(frozen=True)
class _Plan:
    """What to bring up."""

    state: Path
    workers: int
    parameters: Mapping[str, str] | None
    options: Options | None

    @contextmanager
    def up(self, tell: Callable[[str], None]) -> Iterator[tuple[Cloud, str, Fleet | None]]:
        """The cloud, the URL of its web tier and its fleet, while the block lasts."""
        with ExitStack() as down:
            cloud = down.enter_context(
                start(state=self.state, workers=self.workers, parameters=self.parameters, tell=tell)
            )
            url, options = down.enter_context(web_tier(cloud)), self.options
            yield cloud, url, down.enter_context(start_fleet(cloud, options)) if options else None


def _show(plan: _Plan, stop: threading.Event) -> None:
    events: deque[str] = deque(maxlen=EVENTS_SHOWN)

    def tell(text: str) -> None:
        line = f"{datetime.now().astimezone():%H:%M:%S}  {text}"
        events.append(line)
        if not console.is_terminal or not live.is_started:
            console.print(escape(line), highlight=False, soft_wrap=True)

    live = Live(console=console, refresh_per_second=4, transient=True)
    with suppress(KeyboardInterrupt), plan.up(tell) as (cloud, url, fleet):
        console.print(_welcome(cloud, url), soft_wrap=True, highlight=False)
        if console.is_terminal:
            live.start()
        try:
            while not stop.wait(REFRESH_S):
                _check(cloud)
                if console.is_terminal:
                    live.update(_picture(cloud, fleet, events))
        finally:
            live.stop()
        tell("stopping")


def _ask_to_stop(stop: threading.Event) -> None:
    """First the orderly way; a start that still runs, or a second request, is interrupted."""
    if stop.is_set():
        raise KeyboardInterrupt
    stop.set()


def _check(cloud: Cloud) -> None:
    if not cloud.healthy():
        log = cloud.emulator.log if cloud.emulator else cloud.endpoint
        raise CloudError(f"The embedded AWS ended by itself. See {log}.")


def _welcome(cloud: Cloud, url: str) -> str:
    script = cloud.state / "environment.sh"
    bucket = cloud.stack.input_bucket
    return (
        f"\nUp{f', with its page at [bold]{url}[/]' if url else ''}. In another shell:\n\n"
        f"  [bold]. {escape(str(script))}[/]\n"
        f"  cis sample /tmp/session\n"
        f"  aws s3 cp --recursive /tmp/session s3://{escape(bucket)}/ --exclude 'truth/*'\n"
        f"  cis status\n\n"
        f"Ctrl-C stops everything.\n"
    )


def _picture(cloud: Cloud, fleet: Fleet | None, events: deque[str]) -> Group:
    parts = tables(fleet) if fleet else [_queues(cloud), _workers(cloud)]
    return Group(
        f"[dim]AWS[/] {cloud.endpoint}   [dim]{cloud.stack.input_bucket} → "
        f"{cloud.stack.output_bucket}   logs in[/] {escape(str(cloud.state))}",
        *parts,
        *(f"[dim]{escape(event)}[/]" for event in events),
    )


def _queues(cloud: Cloud) -> Table:
    table = Table("queue", "waiting", "running", "dead letters", box=None, header_style="dim")
    try:
        for pipeline, counts in cloud.queue_counts().items():
            dead = f"[red]{counts.dead}[/]" if counts.dead else "0"
            table.add_row(pipeline, str(counts.waiting), str(counts.running), dead)
    except (ClientError, BotoCoreError) as error:
        table.add_row("[red]unreadable[/]", escape(str(error)))
    return table


def _workers(cloud: Cloud) -> Table:
    table = Table("worker", "state", "pid", "log", box=None, header_style="dim")
    for worker in cloud.workers:
        style = STYLES.get(worker.state, "yellow")
        log = escape(str(worker.log.relative_to(cloud.state)))
        table.add_row(worker.name, f"[{style}]{worker.state}[/]", str(worker.pid), log)
    return table
