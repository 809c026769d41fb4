"""Pictures of simulations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cis_tasks.errors import PermanentError
from scaling.simulate.fleet import HOUR_S, Outcome
from scaling.simulate.queue import Arrivals

POINTS = 360
FORMATS = (".png", ".svg")
COLOURS = {"step": "#b3541e", "target": "#6b6b6b", "slo": "#1e6fb3"}


def curves(outcomes: Sequence[Outcome], arrivals: Arrivals, file: Path, title: str) -> None:
    """Draw load, instances and waits over time, one line per policy.

    Raises:
        PermanentError: the file's ending is neither .png nor .svg.
    """
    if file.suffix not in FORMATS:
        raise PermanentError(
            "plot_unknown", f"No plot can be written to {file}.", "End its name in .png or .svg."
        )
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    machines, waits = figure.subplots(2, 1, sharex=True)
    times, service_s = np.asarray(arrivals.times_s), np.asarray(arrivals.service_s)
    width_s = max(60.0, float(times.max()) / POINTS) if len(times) else 60.0
    bins = (times / width_s).astype(int)
    load = np.bincount(bins, service_s) / width_s
    at = np.arange(len(load)) * width_s / HOUR_S
    machines.fill_between(at, load, color="#dddddd", label="work arriving", step="post")
    for outcome in outcomes:
        colour = COLOURS.get(outcome.policy)
        _instances(machines, outcome, colour)
        worst = np.zeros(len(load))
        np.maximum.at(worst, bins, outcome.waits_s)
        label = f"{outcome.policy}: p95 {outcome.wait_s(95):.0f} s"
        waits.plot(at, worst, color=colour, lw=0.9, label=label)
    machines.set(ylabel="instances", title=title)
    waits.set(ylabel=f"longest wait in {width_s / 60:.0f} min, s", xlabel="hours")
    waits.set_yscale("symlog", linthresh=10)
    waits.set_ylim(bottom=0)
    for axes in (machines, waits):
        axes.legend(fontsize=8, loc="upper left")
        axes.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=75, metadata={"Date": None} if file.suffix == ".svg" else None)


def _instances(axes: Any, outcome: Outcome, colour: str | None) -> None:
    every = max(1, len(outcome.curve) // (2 * POINTS))
    shown = outcome.curve[::every]
    axes.plot(
        [sample.time_s / HOUR_S for sample in shown],
        [sample.in_service + sample.pending for sample in shown],
        color=colour,
        lw=0.9,
        label=f"{outcome.policy}: cost {outcome.cost:,.0f}",
    )
