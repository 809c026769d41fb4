"""What every benchmark prints: a table for people, or the same figures as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Before this folder, whose scripts may be called like our packages, as scaling.py is.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Goal:
    """A figure held against what it should be at most, or at least."""

    name: str
    value: float
    goal: float
    met: bool

    @classmethod
    def at_most(cls, name: str, value: float, goal: float) -> Goal:
        """A goal that the value must not exceed."""
        return cls(name, value, goal, value <= goal)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows --quick and --json."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute, less exact")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON alone")
    return parser


def report(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    figures: Mapping[str, Any],
    goals: Sequence[Goal],
    as_json: bool,
) -> None:
    """Print a benchmark's result."""
    if as_json:
        print(json.dumps({"figures": figures, "goals": [asdict(goal) for goal in goals]}))
        return
    console = Console()
    table = Table(*columns, title=title, title_justify="left", box=None, header_style="dim")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for goal in goals:
        mark = "[green]met[/]" if goal.met else "[red]missed[/]"
        console.print(f"{mark}  {goal.name}: {goal.value:.3g} (goal {goal.goal:g})")
