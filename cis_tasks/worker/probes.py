"""What is asked of a worker's health, and by whom.

The model's server, the micro-batcher and the like add probes of their own:

    from cis_tasks.worker import probes
    probes.register("model", lambda: probes.Reading(server.warm, server.name), live=False)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Reading:
    """What a probe found.

    Attributes:
        ok: whether all is well.
        detail: a few words on it; no name of a person.
    """

    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class Probe:
    """One question.

    Attributes:
        ask: answers it, soon; an exception counts as an answer of no.
        live: whether a restart mends it. If not, it only tells whether the worker is ready.
    """

    ask: Callable[[], Reading]
    live: bool


@dataclass(frozen=True)
class Health:
    """A worker's health at one moment.

    Attributes:
        readings: what each probe found.
        live: whether nothing is wrong that a restart mends.
        ready: whether it can take jobs and do them at once.
    """

    readings: Mapping[str, Reading]
    live: bool
    ready: bool

    @property
    def troubles(self) -> dict[str, str]:
        """What is wrong: probe → detail."""
        return {name: each.detail for name, each in self.readings.items() if not each.ok}


_lock = threading.Lock()
_probes: dict[str, Probe] = {}


def register(name: str, ask: Callable[[], Reading], *, live: bool) -> None:
    """Ask this from now on; a probe of the same name is replaced."""
    with _lock:
        _probes[name] = Probe(ask, live)


def forget(name: str) -> None:
    """Ask this no more."""
    with _lock:
        _probes.pop(name, None)


def examine() -> Health:
    """Ask all of them now."""
    with _lock:
        probes = dict(_probes)
    readings = {name: _ask(name, probe) for name, probe in probes.items()}
    live = all(readings[name].ok for name, probe in probes.items() if probe.live)
    return Health(readings, live, live and all(reading.ok for reading in readings.values()))


def _ask(name: str, probe: Probe) -> Reading:
    try:
        return probe.ask()
    except Exception as error:  # a broken probe must not take the others with it
        log.warning("probe_failed", probe=name, error=repr(error))
        return Reading(ok=False, detail=repr(error))
