"""Scaling policies on simulated workloads, beside what a clairvoyant would pay at least.

python benchmarks/scaling.py [--quick] [--json] [--plots DIR] [--fleet [RECORDING]]

Three workloads of a day, jobs of 20 s (log-normal, variation 0.5), boot 30 s, at most 200
machines, billed by the second from launch with 60 s at least, read every 10 s:

burst   1,800 jobs an hour, and ten times that in eight unforeseen bursts of 15 min
daily   200,000 jobs along a day
spot    the same day on machines of which each is interrupted once in two hours, and half of all
        at once at 11 and at 14 o'clock

All policies have the same limits (0 to 200), readings and price. Each workload is drawn with
several seeds; the worst seed is held against the goals. `ratio` is cost ÷ the clairvoyant bound,
which knows all arrivals and loses no machine. `step` and `target` see metrics 5 s late and act by
alarms of a minute; `slo` acts on the readings themselves.

The simulator is then held against what a laptop fleet does with the same burst, real workers and
all: 60 jobs of 2 s at once, from one instance under `step` and from none under `slo`, to at most
four. It prints the fleet's instance curve and the waits side by side. --quick leaves this out;
--fleet does this alone (with --quick, `step` alone), with a RECORDING of what such a fleet did
before.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reporting import Goal, arguments, report

from scaling.policy import Limits
from scaling.simulate.arrivals import Service, bursts, daily
from scaling.simulate.clairvoyant import clairvoyant
from scaling.simulate.compare import compare, dominates, policies
from scaling.simulate.fleet import HOUR_S, Conditions, Outcome, simulate
from scaling.simulate.plots import curves
from scaling.simulate.queue import Arrivals
from scaling.simulate.validation import Agreement, Recording, agreement
from scaling.slo import SloPolicy
from scaling.steps import Bounds

WAIT_S = 60.0
BOOT_S = 30.0
DELAY_S = 5.0
RATIO = 1.15
SERVICE = Service(20.0, 0.5)
LIMITS = Limits(Bounds(0, 200))
SEEDS = (1, 2, 3, 4, 5)
STORMS = (11 * HOUR_S, 14 * HOUR_S)
MILLION_S = 60.0
FLEET_ERROR = 0.2
LIVE = Path()
BURST = Path(__file__).parent / "fleet" / "burst.py"
BURSTS = (("step", 1), ("slo", 0))  # policy, fewest instances
WAITS = ("p50", "p95", "p99")
COLUMNS = ("workload", "policy", *WAITS, "cost", "ratio", "used", "launched", "peak", "lost")


@dataclass(frozen=True)
class Workload:
    """A day's jobs, and what befalls the machines that work through them."""

    name: str
    draw: Callable[[int], Arrivals]
    losses_per_hour: float = 0.0
    storms: tuple[float, ...] = ()

    def conditions(self, seed: int) -> Conditions:
        """What machines are like."""
        return Conditions(
            boot_s=BOOT_S, losses_per_hour=self.losses_per_hour, storms=self.storms, seed=seed
        )


WORKLOADS = (
    Workload(
        "burst",
        lambda seed: bursts(SERVICE, seed, calm_per_hour=1_800, burst_per_hour=18_000, count=8),
    ),
    Workload("daily", lambda seed: daily(200_000, SERVICE, seed)),
    Workload("spot", lambda seed: daily(200_000, SERVICE, seed), 0.5, STORMS),
)


@dataclass(frozen=True)
class Trial:
    """All policies on one draw of a workload."""

    workload: str
    seed: int
    outcomes: dict[str, Outcome]
    bound_s: float

    def ratio(self, policy: str) -> float:
        """Cost ÷ the clairvoyant's."""
        return self.outcomes[policy].paid_s / self.bound_s


def run_trial(workload: Workload, seed: int, bin_s: float, plots: Path | None) -> Trial:
    arrivals = workload.draw(seed)
    chosen = policies(
        LIMITS, wait_s=WAIT_S, service_s=SERVICE.mean_s, boot_s=BOOT_S, delay_s=DELAY_S
    )
    outcomes = compare(chosen, arrivals, workload.conditions(seed), LIMITS)
    if plots is not None and seed == SEEDS[0]:
        curves(outcomes, arrivals, plots / f"{workload.name}.png", f"{workload.name}, seed {seed}")
    bound = clairvoyant(arrivals, wait_s=WAIT_S, boot_s=BOOT_S, bin_s=bin_s)
    return Trial(workload.name, seed, {one.policy: one for one in outcomes}, bound.paid_s)


def million() -> tuple[float, int]:
    """CPU seconds for a day of a million jobs under ``slo``, drawing them included."""
    begun = time.process_time()
    limits = Limits(Bounds(0, 2_000))
    arrivals = daily(1_000_000, SERVICE, 1)
    simulate(SloPolicy(limits, WAIT_S), arrivals, Conditions(boot_s=BOOT_S), limits)
    return time.process_time() - begun, len(arrivals)


def rows_of(trials: Sequence[Trial]) -> list[list[str]]:
    rows = []
    for trial in trials:
        for name, outcome in trial.outcomes.items():
            waits = [f"{outcome.wait_s(p):,.1f}" for p in (50, 95, 99)]
            rows.append(
                [
                    f"{trial.workload} {trial.seed}",
                    name,
                    *waits,
                    f"{outcome.cost:,.0f}",
                    f"{trial.ratio(name):.3f}",
                    f"{outcome.utilisation:.0%}",
                    f"{outcome.launched:,}",
                    str(outcome.peak),
                    str(outcome.lost),
                ]
            )
    return rows


def goals_of(trials: Sequence[Trial]) -> list[Goal]:
    goals = []
    for workload in WORKLOADS:
        of = [trial for trial in trials if trial.workload == workload.name]
        slo = [trial.outcomes["slo"] for trial in of]
        ratios = [trial.ratio("slo") for trial in of]
        goals += [
            Goal.at_most(f"{workload.name}: p95 wait of slo, s", max(map(p95, slo)), WAIT_S),
            Goal.at_most(f"{workload.name}: cost of slo ÷ clairvoyant", max(ratios), RATIO),
        ]
        for other in ("step", "target"):
            lost = sum(not dominates(t.outcomes["slo"], t.outcomes[other]) for t in of)
            goals.append(
                Goal.at_most(f"{workload.name}: seeds where slo does not dominate {other}", lost, 0)
            )
    return goals


def p95(outcome: Outcome) -> float:
    return outcome.wait_s(95)


def validate(given: Path, *, quick: bool) -> list[tuple[str, Agreement]]:
    """How well the simulator foretells what a fleet does or did."""
    if given != LIVE:
        return [(given.stem, agreement(Recording.read(given)))]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for policy, minimum in BURSTS[:1] if quick else BURSTS:
            file = Path(folder) / f"{policy}.json"
            sys.stderr.write(f"{policy}, from {minimum}\n")
            subprocess.run([sys.executable, BURST, policy, str(minimum), file], check=True)
            found.append((policy, agreement(Recording.read(file))))
    return found


def validation_rows(found: Sequence[tuple[str, Agreement]]) -> list[list[str]]:
    return [
        [name, what, f"{value:.1f}", f"{one.simulated_s[what]:.1f}", ratio]
        for name, one in found
        for what, value in one.recorded_s.items()
        for ratio in [f"{one.simulated_s[what] / value:.2f}" if value else ""]
    ]


def figures_of(trials: Sequence[Trial]) -> dict[str, Any]:
    return {
        f"{trial.workload}-{trial.seed}": {
            name: {
                "p50_s": outcome.wait_s(50),
                "p95_s": outcome.wait_s(95),
                "p99_s": outcome.wait_s(99),
                "cost": outcome.cost,
                "ratio": trial.ratio(name),
                "utilisation": outcome.utilisation,
                "launched": outcome.launched,
                "peak": outcome.peak,
                "lost": outcome.lost,
            }
            for name, outcome in trial.outcomes.items()
        }
        for trial in trials
    }


@dataclass(frozen=True)
class Part:
    """A table, and what is judged by it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: dict[str, Any]
    goals: list[Goal]


def comparison(seeds: Sequence[int], bin_s: float, plots: Path | None) -> Part:
    """The policies on the workloads, and a day of a million jobs."""
    trials = [run_trial(workload, seed, bin_s, plots) for workload in WORKLOADS for seed in seeds]
    million_s, jobs = million()
    return Part(
        f"Policies: goal p95 ≤ {WAIT_S:.0f} s; waits in s, cost in machine-hours",
        COLUMNS,
        rows_of(trials),
        {"trials": figures_of(trials), "million_jobs_cpu_s": million_s},
        [
            *goals_of(trials),
            Goal.at_most(f"CPU for a day of {jobs:,} jobs, s", million_s, MILLION_S),
        ],
    )


def validation(given: Path, *, quick: bool) -> Part:
    """The same burst on the laptop fleet and in the simulator."""
    found = validate(given, quick=quick)
    return Part(
        "The same burst on the laptop fleet and in the simulator: waits in s",
        ("policy", "wait", "fleet", "simulated", "ratio"),
        validation_rows(found),
        {"fleet": {name: vars(one) for name, one in found}},
        [
            Goal.at_most(f"{name}: simulated waits against the fleet's", one.error, FLEET_ERROR)
            for name, one in found
        ],
    )


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--plots", type=Path, help="write a picture of each workload here")
    parser.add_argument(
        "--fleet", type=Path, nargs="?", const=LIVE, help="the validation alone; see above"
    )
    given = parser.parse_args()
    parts = []
    if given.fleet is None:
        seeds, bin_s = (SEEDS[:1], 120.0) if given.quick else (SEEDS, 60.0)
        parts.append(comparison(seeds, bin_s, given.plots))
    if given.fleet is not None or not given.quick:
        parts.append(validation(given.fleet or LIVE, quick=given.quick))
    if given.as_json:  # one document
        figures = {name: value for part in parts for name, value in part.figures.items()}
        goals = [goal for part in parts for goal in part.goals]
        report("", (), (), figures=figures, goals=goals, as_json=True)
        return 0
    for part in parts:
        report(
            part.title,
            part.columns,
            part.rows,
            figures=part.figures,
            goals=part.goals,
            as_json=False,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
