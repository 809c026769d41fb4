"""The command ``time_limit``, with effect.

Celery answers that the limits are set, but the strategies that make requests of messages have
noted each task's limits when the worker started and never look again.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from celery.worker.control import Panel

NAME = "time_limit"


def install() -> None:
    """Let the command's new limits hold from the next job on; installing it twice does nothing."""
    stock = Panel.data[NAME]
    if getattr(stock, "takes_effect", False):
        return

    @wraps(stock)
    def time_limit(state: Any, *args: Any, **options: Any) -> Any:
        answer = stock(state, *args, **options)
        state.consumer.update_strategies()
        return answer

    time_limit.takes_effect = True  # type: ignore[attr-defined]
    Panel.data[NAME] = time_limit
