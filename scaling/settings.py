"""What publisher, Lambda and commands are told by the environment; Lambda has no pydantic."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Literal

from cis_tasks.errors import SettingsError
from cis_tasks.pipelines import PIPELINES
from scaling.backlog import Reading
from scaling.news import News
from scaling.policy import Floor, Limits, Policy
from scaling.reader import Watched
from scaling.slo import BOOT_S, SERVICE_S, SloPolicy
from scaling.steps import Bounds
from scaling.ticks import Lines, Observer

PolicyName = Literal["step", "target", "slo"]
YES = {"1", "t", "true", "y", "yes", "on"}  # as pydantic reads them
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = "|".join(DAYS)
FLOOR = re.compile(
    r"(?P<min>\d+)@(?P<start>\d+(\.\d+)?)-(?P<end>\d+(\.\d+)?)"
    rf"(\s+(?P<first>{DAY})(-(?P<last>{DAY}))?)?"
)
POLICIES: tuple[PolicyName, ...] = ("step", "target", "slo")


def watched(environment: Mapping[str, str] = os.environ) -> list[Watched]:
    """The pipelines that have a queue and a group in the environment.

    ``CIS_QUEUE_URL_<PIPELINE>`` and ``CIS_SCALING_GROUP_<PIPELINE>``; further
    ``CIS_OUTPUT_BUCKET``, ``CIS_SCALING_SLOTS_<PIPELINE>``, ``CIS_SCALING_SERVICE_S_<PIPELINE>``
    and ``CIS_SCALING_BOOT_S``.

    Raises:
        SettingsError: a variable makes no sense, or a group has no queue.
    """
    found = []
    for pipeline in PIPELINES.values():
        suffix = pipeline.name.upper()
        group = environment.get(f"CIS_SCALING_GROUP_{suffix}")
        if not group:
            continue
        url = environment.get(pipeline.queue_variable)
        if not url:
            raise SettingsError(
                f"The group {group} has no queue: set {pipeline.queue_variable} to its URL."
            )
        found.append(
            Watched(
                pipeline=pipeline.name,
                queue_url=url,
                group=group,
                bucket=environment.get("CIS_OUTPUT_BUCKET", ""),
                slots=_slots(environment, f"CIS_SCALING_SLOTS_{suffix}"),
                service_s=number(environment, f"CIS_SCALING_SERVICE_S_{suffix}", SERVICE_S),
                boot_s=number(environment, "CIS_SCALING_BOOT_S", BOOT_S),
            )
        )
    return found


def policy_for(environment: Mapping[str, str] = os.environ) -> Callable[[Reading], Policy] | None:
    """What makes the policy that the publisher scales by; None where AWS's alarms do.

    ``CIS_SCALING_POLICY`` is ``step``, ``target`` or ``slo``; ``CIS_SCALING_WAIT_S``,
    ``CIS_SCALING_BUDGET_PER_HOUR`` and ``CIS_SCALING_PRICE_PER_HOUR`` are the goal of ``slo``,
    ``CIS_SCALING_FLOORS`` its scheduled minimums, see `floors`.

    Raises:
        SettingsError: a variable makes no sense.
        PermanentError: the policy refuses its numbers.
    """
    name = environment.get("CIS_SCALING_POLICY", "step")
    if name not in POLICIES:
        raise SettingsError(f"CIS_SCALING_POLICY is {name!r}; use {', '.join(POLICIES)}.")
    if name != "slo":
        return None
    wait_s = number(environment, "CIS_SCALING_WAIT_S", 60.0)
    price = number(environment, "CIS_SCALING_PRICE_PER_HOUR", 1.0)
    budget = number(environment, "CIS_SCALING_BUDGET_PER_HOUR", 0.0) or None
    scheduled = floors(environment.get("CIS_SCALING_FLOORS", ""))

    def make(reading: Reading) -> Policy:
        return SloPolicy(
            Limits(Bounds(reading.min, reading.max), scheduled),
            wait_s=wait_s,
            budget_per_hour=budget,
            price_per_hour=price,
        )

    make(Reading(time_s=0, visible=0, in_flight=0))  # nonsense is refused now, not at work
    return make


def floors(text: str) -> tuple[Floor, ...]:
    """Scheduled minimums from text: ``2@7-19 mon-fri; 1@22-6``, hours in UTC.

    Raises:
        SettingsError: it is something else.
        PermanentError: its numbers make no sense.
    """
    return tuple(_floor(part.strip()) for part in text.split(";") if part.strip())


def _floor(text: str) -> Floor:
    found = FLOOR.fullmatch(text.lower())
    if found is None:
        raise SettingsError(f"{text!r} is no scheduled minimum: write 2@7-19 or 2@7-19 mon-fri.")
    first, last = (DAYS.index(day) if day else None for day in found.group("first", "last"))
    if first is None:
        days = range(7)
    else:
        days = range(first, first + 1 + ((first if last is None else last) - first) % 7)
    least, start, end = found.group("min", "start", "end")
    return Floor(int(least), float(start), float(end), frozenset(day % 7 for day in days))


def observers(environment: Mapping[str, str] = os.environ) -> list[Observer]:
    """Who is told of each tick: CloudWatch, by lines of the log, where ``CIS_EMF`` asks for it.

    ``CIS_METRICS_NAMESPACE`` is their namespace.
    """
    if environment.get("CIS_EMF", "").strip().lower() not in YES:
        return []
    return [Lines(environment.get("CIS_METRICS_NAMESPACE", "") or "CIS")]


def news(environment: Mapping[str, str] = os.environ) -> News | None:
    """Where decisions and alarms are told: the topic ``CIS_TOPIC_SCALING``; None where unset."""
    topic = environment.get("CIS_TOPIC_SCALING", "")
    return News.to(topic) if topic else None


def _slots(environment: Mapping[str, str], name: str) -> int:
    slots = number(environment, name, 1)
    if slots < 1 or slots != int(slots):
        raise SettingsError(f"{name} is {slots:g}; it must be a whole number of at least 1.")
    return int(slots)


def number(environment: Mapping[str, str], name: str, otherwise: float) -> float:
    """A number from the environment.

    Raises:
        SettingsError: it is none.
    """
    text = environment.get(name, "").strip()
    if not text:
        return otherwise
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise SettingsError(f"{name} is {text!r}; it must be a number that is not negative.")
    return value
