"""``cis up``: the laptop cloud in the foreground, with a status that one can read."""

from __future__ import annotations

import signal
import threading
from collections import deque
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from cis_tasks.local.cloud import Cloud, start
from cis_tasks.local.errors import CloudError
from cis_tasks.local.webtier import web_tier
from cis_tasks.local.workers import State

REFRESH_S = 1.0
EVENTS_SHOWN = 8
STYLES = {State.READY: "green", State.FAILED: "red"}

console = Console()


def run(state: Path, workers: int) -> None:
    """Bring the cloud up, show it until SIGINT or SIGTERM, and take it down.

    Raises:
        CloudError: a part could not be started, or ended by itself.
    """
    stop = threading.Event()
    before = {
        kind: signal.signal(kind, lambda *_: _ask_to_stop(stop))
        for kind in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        _show(state, workers, stop)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _show(state: Path, workers: int, stop: threading.Event) -> None:
    events: deque[str] = deque(maxlen=EVENTS_SHOWN)

    def tell(text: str) -> None:
        line = f"{datetime.now().astimezone():%H:%M:%S}  {text}"
        events.append(line)
        if not console.is_terminal or not live.is_started:
            console.print(escape(line), highlight=False, soft_wrap=True)

    live = Live(console=console, refresh_per_second=4, transient=True)
    with (
        suppress(KeyboardInterrupt),
        start(state=state, workers=workers, tell=tell) as cloud,
        web_tier(cloud) as url,
    ):
        console.print(_welcome(cloud, url), soft_wrap=True, highlight=False)
        if console.is_terminal:
            live.start()
        try:
            while not stop.wait(REFRESH_S):
                _check(cloud)
                if console.is_terminal:
                    live.update(_picture(cloud, events))
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


def _picture(cloud: Cloud, events: deque[str]) -> Group:
    return Group(
        f"[dim]AWS[/] {cloud.endpoint}   [dim]{cloud.stack.input_bucket} → "
        f"{cloud.stack.output_bucket}   logs in[/] {escape(str(cloud.state))}",
        _queues(cloud),
        _workers(cloud),
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
