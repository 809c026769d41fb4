"""Messages that are no task: found before they can stop a worker, and why.

Stock Celery dies of some, deletes others, and comes back to die of the same one again. Here every
such message is given back to its queue with its reason logged, so that the queue's redrive policy
moves it to the dead-letter queue after ``maxReceiveCount`` receives.
"""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from binascii import Error as BinasciiError
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from kombu.utils import json as kombu_json

logger = logging.getLogger(__name__)

MAX_DEPTH = 400  # pickle and json fail at about 900; a canvas nests a few levels a step
EXCERPT = 200  # characters of a bad message in the log


class PoisonError(Exception):
    """A message is no task; says why."""


def report(where: str, what: str, reason: object, body: object) -> None:
    """Log one bad message.

    Args:
        where: its queue.
        what: its id, as far as it has one.
        reason: why it is no task.
        body: its contents, of which the beginning is logged.
    """
    text = body if isinstance(body, (str, bytes)) else repr(body)
    logger.error(
        "Poison on %s: %s is no task: %s. It begins with %r", where, what, reason, text[:EXCERPT]
    )


def envelope(body: str) -> dict[str, Any]:
    """The envelope that kombu puts around a message, from the body of an SQS message.

    Args:
        body: JSON, as it is or in base64.

    Raises:
        PoisonError: it has another form.
    """
    text = _text(body.strip())
    try:
        payload = _loads(text)
    except Exception as error:  # kombu revives types, whose constructors raise what they like
        raise PoisonError(f"it is not JSON ({type(error).__name__})") from error
    if not isinstance(payload, dict):
        raise PoisonError(f"it is JSON, but {type(payload).__name__} instead of an object")
    if not isinstance(payload.get("body"), str) or not payload["body"]:
        raise PoisonError("it has no body")
    properties = payload.get("properties")
    if not isinstance(properties, dict):
        raise PoisonError("it has no properties")
    if not isinstance(properties.get("delivery_info", {}), dict):
        raise PoisonError("its delivery_info is no object")
    if not isinstance(payload.get("headers") or {}, dict):
        raise PoisonError("its headers are no object")
    if nested_too_deep(text.encode(), payload):
        raise PoisonError(f"it is nested deeper than {MAX_DEPTH} levels")
    return payload


def _text(body: str) -> str:
    if not body:
        raise PoisonError("it is empty")
    if body.startswith(("{", "[")):
        return body
    try:
        return b64decode(body, validate=True).decode()
    except (BinasciiError, ValueError):
        return body


def _loads(text: str) -> Any:
    """As kombu's, whose hook for each object costs more than the decoding."""
    return kombu_json.loads(text) if '"__type__"' in text else json.loads(text)


def check_task(message: Any) -> None:
    """Look at a kombu message that claims to be a task of protocol 2.

    Raises:
        PoisonError: the worker would fail on it.

    Source: https://docs.celeryq.dev/en/stable/internals/protocol.html
    """
    headers = message.headers
    for name, types in _TYPES.items():
        if not isinstance(headers.get(name), types):
            raise PoisonError(f"its header {name!r} is {type(headers.get(name)).__name__}")
    if not headers["task"] or not headers.get("id"):
        raise PoisonError("it has no task or no id")
    _check_time_limit(headers.get("timelimit"))
    for name in ("reply_to", "correlation_id"):
        if not isinstance(message.properties.get(name), (str, int, type(None))):
            raise PoisonError(f"its property {name!r} is no text")
    try:
        payload = message.payload  # decoded once: the worker's own request takes it from here
    except Exception as error:
        raise PoisonError(f"its body cannot be decoded: {error!r}") from error
    if nested_too_deep(message.body, payload):
        raise PoisonError(f"its body is nested deeper than {MAX_DEPTH} levels")
    if not _is_hybrid(payload):
        _check_body(payload)


def nested_too_deep(text: bytes | str, value: object) -> bool:
    """Whether ``value``, whose JSON is ``text``, would exhaust the stack of whoever handles it."""
    raw = text.encode() if isinstance(text, str) else bytes(text)
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


_TEXT = (str, type(None))
_ID = (str, int, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "id": _ID,
    "root_id": _ID,
    "parent_id": _ID,
    "group": _ID,
    "group_index": (int, type(None)),
    "retries": (int, type(None)),
    "shadow": _TEXT,
    "lang": _TEXT,
    "origin": _TEXT,
    "argsrepr": _TEXT,
    "kwargsrepr": _TEXT,
    "eta": (str, datetime, type(None)),
    "expires": (str, datetime, type(None)),
    "stamped_headers": (list, tuple, type(None)),
    "stamps": (dict, type(None)),
}


def _check_time_limit(limit: object) -> None:
    if limit is None:
        return
    if not isinstance(limit, (list, tuple)) or len(limit) != 2:
        raise PoisonError("its header 'timelimit' is no pair")
    if not all(isinstance(part, (int, float, type(None))) for part in limit):
        raise PoisonError("its header 'timelimit' has no numbers")


def _is_hybrid(payload: object) -> bool:
    return isinstance(payload, dict) and "args" in payload  # protocol 1 within 2


def _check_body(payload: object) -> None:
    if not isinstance(payload, (list, tuple)) or len(payload) != 3:
        raise PoisonError("its body is not [args, kwargs, embed]")
    args, kwargs, embed = payload
    if not isinstance(args, (list, tuple)):
        raise PoisonError("its arguments are no list")
    if not isinstance(kwargs, dict):
        raise PoisonError("its keyword arguments are no object")
    if not isinstance(embed, (dict, type(None))):
        raise PoisonError("what follows it is no object")
