"""What a worker's processes have used of the CPU."""

from __future__ import annotations

import os
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SESSION, UTIME, STIME, CUTIME, CSTIME = 3, 11, 12, 13, 14  # after the command, see proc(5)


def cpu_s(session: int) -> float:
    """CPU seconds of all processes of a session, with those of its ended ones that were reaped."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(entry)
            if fields and int(fields[SESSION]) == session:
                ticks += sum(int(fields[at]) for at in (UTIME, STIME, CUTIME, CSTIME))
    return ticks / TICKS_PER_S


def machine_cpu_s() -> float:
    """CPU seconds that this machine has spent on anything, for what others did meanwhile."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def _stat(process: Path) -> list[str] | None:
    try:
        text = (process / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
