"""Events, one line of JSON each."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime


def log(event: str, **fields: object) -> None:
    """Write an event to standard output, where Lambda, systemd and a shell find it."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"event": event, "at": at, **fields}, default=str)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
