"""The publisher as a scheduled Lambda: readings for most of a minute, then the next invocation.

EventBridge invokes it for changes of alarms, too, which it tells the scaling topic.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping
from typing import Any

from scaling.news import ALARM_CHANGED, AlarmChanged
from scaling.publisher import Publisher
from scaling.reader import Clients
from scaling.settings import news, number, observers, policy_for, watched


def handler(event: Mapping[str, Any], context: object) -> dict[str, int]:  # noqa: ARG001  Lambda's
    """Publish ``CIS_SCALING_TICKS`` readings, ``CIS_SCALING_EVERY_S`` seconds apart.

    A schedule can invoke it once a minute and no more often; six readings ten seconds apart fill
    that minute. An environment that AWS keeps between invocations keeps what was seen.

    Where the event is the change of an alarm, tell the topic ``CIS_TOPIC_SCALING`` of it instead;
    what SNS refuses is raised, so that Lambda tries again.

    Raises:
        SettingsError: the environment makes no sense.
        PermanentError: there is nothing to watch, or the policy refuses its numbers.
    """
    if event.get("detail-type") == ALARM_CHANGED:
        return {"told": _tell(event)}
    every_s = number(os.environ, "CIS_SCALING_EVERY_S", 10.0)
    ticks = max(1, int(number(os.environ, "CIS_SCALING_TICKS", 6)))
    _publisher().run(every_s, threading.Event(), ticks)
    return {"ticks": ticks}


def _tell(event: Mapping[str, Any]) -> int:
    """How many were told of an alarm: one topic, or none."""
    topic = news()
    if topic is None:
        return 0
    groups = {one.pipeline: one.group for one in watched()}
    topic.tell(AlarmChanged.of(event, groups))
    return 1


@functools.cache
def _publisher() -> Publisher:
    return Publisher(
        watched(),
        Clients.make(),
        policy=policy_for(),
        high_resolution=bool(number(os.environ, "CIS_SCALING_HIGH_RESOLUTION", 0)),
        news=news(),
        observers=observers(),
    )
