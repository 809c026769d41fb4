"""``celery -A cis_tasks beat``: the backlog published as a beat task."""

from __future__ import annotations

import functools
from typing import Any

from celery import beat

from cis_tasks.app import app
from scaling.publisher import Publisher
from scaling.reader import Clients
from scaling.settings import news, observers, policy_for, watched


@app.task(name="cis_tasks.publish_backlog", ignore_result=True)  # type: ignore[untyped-decorator]
def publish_backlog() -> None:
    """Publish one reading of each queue; under ``slo``, set capacities.

    Raises:
        SettingsError: the environment makes no sense.
        PermanentError: no queue and group are named in it.
    """
    _publisher().tick()


class Scheduler(beat.Scheduler):  # type: ignore[misc]  # Celery has no types
    """Beat's scheduler, which runs `publish_backlog` itself.

    As a message it would wait in a job queue behind the very backlog that it is to tell of, and
    with no worker nobody would run it. Other entries go the usual way.
    """

    def apply_async(
        self,
        entry: Any,
        producer: Any = None,
        advance: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Run or send an entry that is due."""
        if entry.task != publish_backlog.name:
            return super().apply_async(entry, producer=producer, advance=advance, **kwargs)
        if advance:
            self.reserve(entry)
        return publish_backlog.apply(throw=True)


@functools.cache
def _publisher() -> Publisher:
    return Publisher(
        watched(), Clients.make(), policy=policy_for(), news=news(), observers=observers()
    )
