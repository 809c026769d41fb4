"""The trace that a job belongs to, in the message's headers; nothing but the standard library.

The Lambda has no OpenTelemetry, and needs none to hand a trace on: a ``traceparent`` is a text.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import MutableMapping

HEADER = "traceparent"
VARIABLE = "CIS_TRACING"
XRAY_VARIABLE = "_X_AMZN_TRACE_ID"  # set by Lambda for each invocation
ON = {"1", "true", "yes", "on", "t", "y"}

_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_XRAY_ROOT = re.compile(r"Root=1-([0-9a-f]{8})-([0-9a-f]{24})")
_XRAY_PARENT = re.compile(r"Parent=([0-9a-f]{16})")


def enabled() -> bool:
    """Whether this process takes part in traces."""
    return os.environ.get(VARIABLE, "").lower() in ON


def inject(headers: MutableMapping[str, object], inherited: object = None) -> None:
    """Put the trace of what is published just now into a message's headers, if tracing is on.

    Args:
        headers: of the message; a trace that they have stays.
        inherited: the ``traceparent`` of the task that publishes, if one does.
    """
    if enabled() and HEADER not in headers:
        headers[HEADER] = _current() or valid(inherited) or _from_xray() or _new()


def valid(text: object) -> str:
    """``text`` where it is a traceparent, else empty."""
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return ""
    return match[0]


def _current() -> str:
    """The span that OpenTelemetry, where it is used, is in just now."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def _from_xray() -> str:
    """The trace that Lambda is in, whose ids are the same numbers in another form.

    Source: https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
    """
    text = os.environ.get(XRAY_VARIABLE, "")
    root, parent = _XRAY_ROOT.search(text), _XRAY_PARENT.search(text)
    if root is None or parent is None:
        return ""
    flags = "01" if "Sampled=1" in text else "00"
    return f"00-{root[1]}{root[2]}-{parent[1]}-{flags}"


def _new() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
