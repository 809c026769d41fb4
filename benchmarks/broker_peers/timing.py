"""How long one job after another takes, from submitting it to having its result."""

import json
import time
from collections.abc import Awaitable, Callable

WARM_UP = 3
AT_LEAST = 8


def report(call: Callable[[int], None], seconds: float) -> None:
    """Print the seconds of each call, made for about so long, as JSON."""
    for number in range(WARM_UP):
        call(number)
    took: list[float] = []
    while len(took) < AT_LEAST or sum(took) < seconds:
        start = time.perf_counter()
        call(len(took))
        took.append(time.perf_counter() - start)
    print(json.dumps(took))


async def report_async(call: Callable[[int], Awaitable[None]], seconds: float) -> None:
    """The same for a coroutine."""
    for number in range(WARM_UP):
        await call(number)
    took: list[float] = []
    while len(took) < AT_LEAST or sum(took) < seconds:
        start = time.perf_counter()
        await call(len(took))
        took.append(time.perf_counter() - start)
    print(json.dumps(took))
