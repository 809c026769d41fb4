"""Workloads to try policies on: recorded, Poisson, bursts, days."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cis_tasks.errors import PermanentError
from scaling.simulate.queue import Arrivals

DAY_S = 86_400.0
HOUR_S = 3_600.0
Rate = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Service:
    """How long jobs run: log-normal, as most measured service times nearly are.

    Attributes:
        mean_s: mean.
        variation: standard deviation ÷ mean; 0 makes all jobs alike.

    Raises:
        PermanentError: its numbers make no sense.
    """

    mean_s: float = 20.0
    variation: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean_s) and self.mean_s > 0 and 0 <= self.variation <= 10):
            raise PermanentError(
                "workload_unusable",
                f"Jobs cannot run {self.mean_s} s with a variation of {self.variation}.",
                "Use a positive mean and a variation from 0 to 10.",
            )

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Service times of ``count`` jobs, in seconds."""
        spread = math.log1p(self.variation**2)
        return random.lognormal(math.log(self.mean_s) - spread / 2, math.sqrt(spread), count)


def poisson(
    per_hour: float, duration_s: float, service: Service, seed: int, groups: int = 0
) -> Arrivals:
    """Jobs that come at random at a constant rate.

    Args:
        per_hour: mean number.
        duration_s: for how long.
        service: how long they run.
        seed: another seed is another workload.
        groups: number of message groups that they belong to at random; 0 is no groups.
    """
    random = np.random.default_rng(seed)
    times = _thinned(lambda t: np.full_like(t, per_hour), per_hour, duration_s, random)
    return _arrivals(times, service, random, groups)


def daily(
    jobs: float,
    service: Service,
    seed: int,
    *,
    days: float = 1.0,
    night: float = 0.1,
    groups: int = 0,
) -> Arrivals:
    """Days of work: a broad hump around 14 o'clock, little at night.

    Args:
        jobs: mean number a day.
        service: how long they run.
        seed: another seed is another workload.
        days: how many.
        night: the night's rate as a share of the day's highest.
        groups: number of message groups; 0 is no groups.
    """

    def shape(time_s: np.ndarray) -> np.ndarray:
        hump = (1 + np.cos(2 * np.pi * (time_s / DAY_S - 14 / 24))) / 2
        return night + (1 - night) * hump**2

    grid = np.linspace(0, DAY_S, 1441)[:-1]
    peak = jobs / 24 / float(shape(grid).mean())
    random = np.random.default_rng(seed)
    times = _thinned(lambda t: peak * shape(t), peak, days * DAY_S, random)
    return _arrivals(times, service, random, groups)


def bursts(
    service: Service,
    seed: int,
    *,
    duration_s: float = DAY_S,
    calm_per_hour: float = 60.0,
    burst_per_hour: float = 3_000.0,
    burst_s: float = 900.0,
    count: int = 8,
    groups: int = 0,
) -> Arrivals:
    """Calm, broken at unforeseen moments by bursts that begin and end at once.

    Args:
        service: how long jobs run.
        seed: another seed is another workload.
        duration_s: of it all.
        calm_per_hour: rate between bursts.
        burst_per_hour: rate within one.
        burst_s: length of one.
        count: number of bursts; one begins somewhere in each of ``count`` equal parts.
        groups: number of message groups; 0 is no groups.
    """
    random = np.random.default_rng(seed)
    part_s = duration_s / count
    if part_s < burst_s:
        raise PermanentError(
            "workload_unusable",
            f"{count} bursts of {burst_s:g} s do not fit into {duration_s:g} s.",
            "Use fewer or shorter bursts.",
        )
    starts = np.arange(count) * part_s + random.uniform(0, part_s - burst_s, count)

    def rate(time_s: np.ndarray) -> np.ndarray:
        inside = ((time_s[:, None] >= starts) & (time_s[:, None] < starts + burst_s)).any(axis=1)
        return np.where(inside, burst_per_hour, calm_per_hour)

    top = max(calm_per_hour, burst_per_hour)
    return _arrivals(_thinned(rate, top, duration_s, random), service, random, groups)


def at_once(jobs: int, service: Service, seed: int, at_s: float = 0.0) -> Arrivals:
    """A number of jobs at one moment."""
    random = np.random.default_rng(seed)
    return _arrivals(np.full(jobs, at_s), service, random, 0)


def recorded(file: Path, service: Service, seed: int = 0) -> Arrivals:
    """A trace: CSV with a column ``time_s`` and, where known, ``service_s`` and ``group``.

    Raises:
        PermanentError: it cannot be read; says which line and why.
    """
    try:
        with file.open(newline="", encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, str(error)) from error
    if not rows or "time_s" not in rows[0]:
        raise _unreadable(file, "it has no rows, or no column time_s")
    times = np.array([_number(file, line, row, "time_s") for line, row in enumerate(rows, 2)])
    order = np.argsort(times, kind="stable")
    random = np.random.default_rng(seed)
    if "service_s" in rows[0]:
        run = [_number(file, line, row, "service_s") for line, row in enumerate(rows, 2)]
        service_s = np.array(run)[order]
    else:
        service_s = service.draw(len(rows), random)
    groups = None
    if "group" in rows[0]:
        names = [rows[index]["group"] for index in order]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        groups = [numbers[name] for name in names]
    return Arrivals((times[order] - times.min()).tolist(), service_s.tolist(), groups)


def named(
    what: str, jobs: int, hours: float, service: Service, *, seed: int, groups: int = 0
) -> Arrivals:
    """A workload by its name, or the trace in a file.

    Args:
        what: ``burst``, ``daily``, ``poisson``, ``at-once``, or the path of a CSV file.
        jobs: how many in all, about.
        hours: length, of bursts and Poisson arrivals; a day is a day.
        service: how long they run.
        seed: another seed is another workload.
        groups: number of message groups; 0 is no groups.

    Raises:
        PermanentError: the trace cannot be read, or the numbers make no workload.
    """
    per_hour = jobs / hours
    if what == "daily":
        return daily(jobs, service, seed, groups=groups)
    if what == "poisson":
        return poisson(per_hour, hours * HOUR_S, service, seed, groups)
    if what == "at-once":
        return at_once(jobs, service, seed)
    if what == "burst":
        # Eight bursts of a 96th of the time each, ten times as busy as the calm between them.
        calm = per_hour / (1 + 9 * 8 / 96)
        return bursts(
            service,
            seed,
            duration_s=hours * HOUR_S,
            calm_per_hour=calm,
            burst_per_hour=10 * calm,
            burst_s=hours * HOUR_S / 96,
            groups=groups,
        )
    return recorded(Path(what), service, seed)


def _arrivals(
    times: np.ndarray, service: Service, random: np.random.Generator, groups: int
) -> Arrivals:
    service_s = service.draw(len(times), random)
    members = random.integers(0, groups, len(times)).tolist() if groups else None
    return Arrivals(times.tolist(), service_s.tolist(), members)


def _thinned(
    rate: Rate, top_per_hour: float, duration_s: float, random: np.random.Generator
) -> np.ndarray:
    """Moments of an inhomogeneous Poisson process (Lewis and Shedler's thinning)."""
    if not (math.isfinite(top_per_hour) and top_per_hour > 0 and duration_s > 0):
        raise PermanentError(
            "workload_unusable",
            f"{top_per_hour} jobs an hour for {duration_s} s make no workload.",
            "Use a positive rate and duration.",
        )
    count = random.poisson(top_per_hour * duration_s / HOUR_S)
    times = np.sort(random.uniform(0, duration_s, count))
    return times[random.uniform(0, top_per_hour, count) < rate(times)]


def _number(file: Path, line: int, row: dict[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise _unreadable(file, f"line {line} has {column} = {row[column]!r}")
    return value


def _unreadable(file: Path, why: str) -> PermanentError:
    return PermanentError(
        "trace_unreadable",
        f"The trace {file} cannot be used: {why}.",
        "It is CSV with a column time_s, and service_s and group where known; no time is below 0.",
    )
