"""What the command line shows of a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from cis_tasks.console import console

ANGLES = (("flexion_deg", "flexion"), ("lateral_deg", "lateral"), ("axial_deg", "axial"))


def show_calibration(summary: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Print the summary of a calibration that passed, and where its files are."""
    offset, sd = summary["time_offset_s"], 1e3 * summary["time_offset_sd_s"]
    console.print(
        f"[green]passed[/]  clocks differ by {offset:.4f} s (SD {sd:.2g} ms), "
        f"{summary['rate_ppm']:+.0f} ppm"
    )
    console.print(_sensors(summary["sensors"]))
    if summary["angles"]:
        console.print(_ranges(summary["angles"]))
    for gate in summary["gates"]:
        if not gate["passed"]:
            found = f"{gate['value']:.3g}" if gate["value"] is not None else "unknown"
            console.print(
                f"[yellow]to note:[/] {escape(gate['name'])} – {found}, needed {gate['limit']:.3g} "
                f"{escape(gate['unit'])}"
            )
    for warning in summary["warnings"]:
        console.print(f"[yellow]to note:[/] {escape(warning)}")
    for path in files:
        console.print(escape(str(path)))
    console.print("[dim]Angles of the skin's surface: not Cobb angles, not a diagnosis.[/]")


def _sensors(sensors: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(
        "segment", "sensor", "tag", "seen", "bias °/s", "mounting SD", box=None, header_style="dim"
    )
    for sensor in sensors:
        bias = ", ".join(f"{value:+.2f}" for value in sensor["gyro_bias_deg_s"])
        table.add_row(
            escape(sensor["segment"]),
            escape(sensor["sensor"]),
            str(sensor["tag"]),
            f"{sensor['coverage']:.0%}",
            bias,
            f"{sensor['mounting_sd_deg']:.2f}°",
        )
    return table


def _ranges(pairs: Iterable[Mapping[str, Any]]) -> Table:
    table = Table("pair", *(title for _, title in ANGLES), box=None, header_style="dim")
    for pair in pairs:
        cells = [_span(pair[key]) for key, _ in ANGLES]
        table.add_row(escape(f"{pair['cranial']}/{pair['caudal']}"), *cells)
    return table


def _span(angle: Mapping[str, float] | None) -> str:
    return f"{angle['min']:.1f} … {angle['max']:.1f}°" if angle else "–"
