"""What a workload costs at least, whoever schedules it: the bound that policies are held against.

It knows every arrival and every service time in advance. It boots machines before the work comes,
divides them and the jobs at will, loses none, and uses up the waits that the goal allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, hstack, vstack

from cis_tasks.errors import TransientError
from scaling.simulate.queue import Arrivals

SOLVER = "highs-ipm"
SLACK = 1e-6
"""Share of all work that the bound may leave undone, so that rounding leaves it a solution."""


@dataclass(frozen=True)
class Bound:
    """Seconds that must be paid for, at least.

    Attributes:
        paid_s: over all machines, boots included.
        boots: machines launched; a fraction, as the bound divides machines.
    """

    paid_s: float
    boots: float


def clairvoyant(
    arrivals: Arrivals,
    *,
    wait_s: float,
    boot_s: float,
    slots: int = 1,
    share: float = 0.95,
    bin_s: float = 20.0,
) -> Bound:
    """Least seconds of machines with which ``share`` of the jobs wait no longer than ``wait_s``.

    A linear programme over bins of time. Its unknowns are the mean number of ready machines in a
    bin, the work done by its end on jobs that keep the goal and on those let off it, and which
    work is let off. Work is not done before it arrives, and that of jobs which keep the goal
    never falls behind what they would have come to if each started at its last moment. Every true
    schedule gives a feasible point that costs no more than itself, so the optimum is a lower
    bound; wider bins make it weaker, not wrong. A minimum billed time is left out, which can only
    lower it.

    Args:
        arrivals: the jobs.
        wait_s: the goal.
        boot_s: from launch to the first job.
        slots: jobs that one machine runs at a time.
        share: of the jobs that must meet the goal.
        bin_s: width of a bin.

    Raises:
        TransientError: the solver gave up.
    """
    times, service_s = np.asarray(arrivals.times_s), np.asarray(arrivals.service_s)
    if not len(times):
        return Bound(0.0, 0.0)
    end_s = float((times + service_s).max()) + wait_s + bin_s
    edges = np.arange(1, int(np.ceil(end_s / bin_s)) + 1) * bin_s
    n = len(edges)
    arrived = _arrived(times, service_s, edges)
    due = np.minimum(_due(times + wait_s, service_s, edges), arrived)  # rounding apart, it is less
    bins = np.minimum((times / bin_s).astype(int), n - 1)
    exempt = np.floor((1 - share) * len(times))
    one = csr_array(eye_array(n))
    step = csr_array(one - eye_array(n, k=-1))
    # Unknowns, each per bin: ready machines c, launches u, work done on time P, work done late L,
    # work let off so far X, jobs let off in the bin m.
    program = _Program(6, n)
    program.add(np.zeros(n), {0: -bin_s * slots * one, 2: step, 3: step})  # machines do the work
    program.add(np.zeros(n), {0: step, 1: -one})  # machines are launched
    for block in (2, 3, 4):
        program.add(np.zeros(n), {block: -step})  # what is done stays done
    program.add(-due, {2: -one, 4: -_shift(edges - wait_s, bin_s, n)})  # the goal is kept
    program.add(arrived, {2: one, 4: one})  # nothing is done before it has come
    program.add(np.zeros(n), {3: one, 4: -one})
    mean_s = float(service_s.mean())
    for slope_s in (0.0, 0.5 * mean_s, mean_s, 1.5 * mean_s, 2.5 * mean_s):
        # m jobs of a bin have at most the work m·slope + Σ (s − slope)₊, whatever the slope.
        over = np.bincount(bins, np.maximum(service_s - slope_s, 0.0), minlength=n)
        program.add(over, {4: step, 5: -slope_s * one})
    program.add(np.array([exempt]), {5: csr_array(np.ones((1, n)))})
    program.add(
        np.array([-(1 - SLACK) * arrived[-1]]), {2: _last(n), 3: _last(n)}
    )  # in the end all is done
    costs = np.concatenate([np.full(n, bin_s), np.full(n, boot_s), np.zeros(4 * n)])
    rows, limits = program.rows(), program.limits()
    found = linprog(costs, A_ub=rows, b_ub=limits, method=SOLVER)  # type: ignore[call-overload]
    if not found.success:
        raise TransientError(
            "bound_unsolved", f"The clairvoyant bound was not found: {found.message}."
        )
    return Bound(float(found.fun), float(found.x[n : 2 * n].sum()))


class _Program:
    """Rows of a linear programme whose unknowns come in blocks."""

    def __init__(self, blocks: int, size: int) -> None:
        self._blocks, self._size = blocks, size
        self._rows: list[csr_array] = []
        self._limits: list[np.ndarray] = []

    def add(self, limits: np.ndarray, parts: Mapping[int, csr_array]) -> None:
        """Let the sum of ``parts`` times their blocks be at most ``limits``."""
        none = csr_array((len(limits), self._size))
        self._rows.append(hstack([parts.get(block, none) for block in range(self._blocks)]))
        self._limits.append(limits)

    def rows(self) -> csr_array:
        return csr_array(vstack(self._rows))

    def limits(self) -> np.ndarray:
        return np.concatenate(self._limits)


def _shift(moments: np.ndarray, bin_s: float, n: int) -> csr_array:
    """For each bin, picks the bin in which another moment lies; nothing before the first."""
    rows = np.flatnonzero(moments >= 0)
    columns = np.minimum(np.floor(moments[rows] / bin_s + 1e-9).astype(int), n - 1)
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))


def _last(n: int) -> csr_array:
    return csr_array(([-1.0], ([0], [n - 1])), shape=(1, n))


def _arrived(times: np.ndarray, service_s: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Work that has arrived by each edge."""
    order = np.argsort(times)
    total = np.concatenate([[0.0], np.cumsum(service_s[order])])
    return np.asarray(total[np.searchsorted(times[order], edges, side="right")])


def _due(starts: np.ndarray, service_s: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Work done by each edge if each job starts at its last moment: Σ min(s, (t − start)₊)."""
    begun, over = np.sort(starts), np.sort(starts + service_s)

    def ramps(moments: np.ndarray) -> np.ndarray:
        total = np.concatenate([[0.0], np.cumsum(moments)])
        count = np.searchsorted(moments, edges, side="right")
        return np.asarray(count * edges - total[count])

    return np.asarray(ramps(begun) - ramps(over))
