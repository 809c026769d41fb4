"""The publisher as a scheduled Lambda: readings for most of a minute, then the next invocation."""

from __future__ import annotations

import functools
import os
import threading

from scaling.publisher import Publisher
from scaling.reader import Clients
from scaling.settings import number, policy_for, watched


def handler(event: object, context: object) -> dict[str, int]:  # noqa: ARG001  Lambda's signature
    """Publish ``CIS_SCALING_TICKS`` readings, ``CIS_SCALING_EVERY_S`` seconds apart.

    A schedule can invoke it once a minute and no more often; six readings ten seconds apart fill
    that minute. An environment that AWS keeps between invocations keeps what was seen.

    Raises:
        SettingsError: the environment makes no sense.
        PermanentError: there is nothing to watch, or the policy refuses its numbers.
    """
    every_s = number(os.environ, "CIS_SCALING_EVERY_S", 10.0)
    ticks = max(1, int(number(os.environ, "CIS_SCALING_TICKS", 6)))
    _publisher().run(every_s, threading.Event(), ticks)
    return {"ticks": ticks}


@functools.cache
def _publisher() -> Publisher:
    return Publisher(
        watched(),
        Clients.make(),
        policy=policy_for(),
        high_resolution=bool(number(os.environ, "CIS_SCALING_HIGH_RESOLUTION", 0)),
    )
