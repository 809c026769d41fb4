"""Health of a worker: on a local port, in a file, and for systemd's watchdog.

systemd restarts a worker whose watchdog is not fed. It is fed only while the worker is live, so a
worker that is up but deaf, whose leases are not kept or whose GPU is gone is restarted. In a
container the file does the same: its age tells.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from celery import bootsteps
from celery.worker.consumer.tasks import Tasks

from cis_tasks.local_port import Server
from cis_tasks.settings import Settings, settings
from cis_tasks.worker import probes, tally, vitals, watchdog
from cis_tasks.worker.health_server import pages

log = structlog.get_logger(__name__)

EVERY_S = 5.0


def wanted(given: Settings) -> bool:
    """Whether the settings, or systemd, ask for any of it."""
    asked = given.health_port is not None or given.health_file is not None or given.emf
    return asked or "NOTIFY_SOCKET" in os.environ


def install(app: Any) -> None:
    """Let the app's workers do it."""
    app.steps["consumer"].add(Health)


class Health(bootsteps.StartStopStep):  # type: ignore[misc]  # celery is untyped
    """Watches the worker from a thread of its own."""

    requires = (Tasks,)

    def __init__(self, c: Any, **options: Any) -> None:
        self._given = settings()
        self._lines: Any = None
        self._server: Server | None = None
        self._watch: Watch | None = None
        self._observe()
        super().__init__(c, **options)

    def start(self, c: Any) -> None:
        """The worker consumes; after a lost connection this is called again."""
        vitals.watch(c, self._given.health_silent_s)
        if self._server is None and self._given.health_port is not None:
            self._server = Server(pages(), self._given.health_port, self._given.health_host)
            log.info("health_served", port=self._server.port)
        if self._watch is None:
            tell_calls = self._lines.tell_calls if self._lines else _nothing
            self._watch = Watch(self._given.health_file, also=tell_calls)
            watchdog.notify(watchdog.READY)

    def shutdown(self, _c: Any) -> None:
        """The worker has finished its jobs."""
        watchdog.notify(watchdog.STOPPING)
        if self._watch is not None:
            self._watch.stop()
        if self._server is not None:
            self._server.close()

    def _observe(self) -> None:
        if self._given.health_port is not None:
            from cis_tasks.worker import metrics  # noqa: PLC0415

            tally.observe(metrics.count)
        if self._given.emf:
            from cis_tasks.worker import metrics  # noqa: PLC0415

            self._lines = metrics.Lines(self._given.metrics_namespace)
            tally.observe(self._lines)


class Watch:
    """Looks at the worker's health again and again, and says so where it is live.

    Args:
        file: touched and filled each time while live; None for none.
        also: called each time.
    """

    def __init__(self, file: Path | None, also: Callable[[], object]) -> None:
        self._file, self._also = file, also
        asked_s = watchdog.interval_s()
        self._every_s = min(EVERY_S, asked_s) if asked_s else EVERY_S
        self._stopped = threading.Event()
        self._was_live = True
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._look()
                self._also()
            except Exception:  # a full disk, say; the next look may do better
                log.exception("health_not_told")
            self._stopped.wait(self._every_s)

    def _look(self) -> None:
        health = probes.examine()
        if health.live:
            watchdog.notify(watchdog.ALIVE)
            if self._file is not None:
                _replace(self._file, {"at": time.time(), "ready": health.ready})
        if health.live != self._was_live:
            level = log.info if health.live else log.error
            level("worker_live" if health.live else "worker_not_live", **health.troubles)
            self._was_live = health.live


def _replace(file: Path, told: dict[str, Any]) -> None:
    """Write a file so that a reader sees the old or the new one whole."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(json.dumps(told))
    fresh.replace(file)


def _nothing() -> None:
    """Do nothing more."""
