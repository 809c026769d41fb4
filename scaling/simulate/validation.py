"""The simulator held against what a real fleet did with the same jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cis_tasks.errors import PermanentError
from scaling.alarmed import step_policy, target_policy
from scaling.policy import Limits, Policy
from scaling.simulate.fleet import Conditions, Outcome, simulate
from scaling.simulate.queue import Arrivals
from scaling.slo import SloPolicy
from scaling.steps import Bounds


@dataclass(frozen=True)
class Recording:
    """What a fleet did.

    Attributes:
        policy: ``step``, ``target`` or ``slo``.
        numbers: what the policy was made with, by the names of its function's parameters.
        bounds: fewest and most instances.
        conditions: boot time, slots and reading period of the fleet.
        arrivals: when each job came and how long it ran.
        waits_s: how long each waited, in the same order.
    """

    policy: str
    numbers: dict[str, Any]
    bounds: Bounds
    conditions: Conditions
    arrivals: Arrivals
    waits_s: np.ndarray

    @classmethod
    def read(cls, file: Path) -> Recording:
        """Read a recording.

        Its JSON holds ``policy``, ``numbers``, ``min``, ``max``, ``conditions`` (fields of
        `Conditions`) and ``jobs``: a list with ``arrived_s``, ``started_s`` and ``service_s``.

        Raises:
            PermanentError: it cannot be read; says why.
        """
        try:
            return _recording(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PermanentError(
                "recording_unreadable",
                f"The recording {file} cannot be used: {type(error).__name__} {error}.",
                "Record it again.",
            ) from error

    def replay(self) -> Outcome:
        """The same jobs on a simulated fleet under the same policy.

        Raises:
            PermanentError: the policy refuses its numbers.
        """
        limits = Limits(self.bounds)
        return simulate(self._policy(limits), self.arrivals, self.conditions, limits)

    def _policy(self, limits: Limits) -> Policy:
        makers: dict[str, Any] = {"step": step_policy, "target": target_policy, "slo": SloPolicy}
        policy: Policy = makers[self.policy](limits, **self.numbers)
        return policy


@dataclass(frozen=True)
class Agreement:
    """How far a simulation is from what happened.

    Attributes:
        recorded_s: mean, median and 95th percentile of the waits that happened.
        simulated_s: the same of the simulated waits.
    """

    recorded_s: dict[str, float]
    simulated_s: dict[str, float]

    @property
    def error(self) -> float:
        """Largest difference, relative to what happened."""
        return max(
            abs(self.simulated_s[name] - value) / value
            for name, value in self.recorded_s.items()
            if value > 0
        )


def agreement(recording: Recording) -> Agreement:
    """Replay a recording and compare the waits.

    Raises:
        PermanentError: the policy refuses its numbers.
    """
    return Agreement(_summary(recording.waits_s), _summary(recording.replay().waits_s))


def _summary(waits_s: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(waits_s.mean()),
        "p50": float(np.percentile(waits_s, 50)),
        "p95": float(np.percentile(waits_s, 95)),
    }


def _recording(content: Any) -> Recording:
    jobs = sorted(content["jobs"], key=lambda job: float(job["arrived_s"]))
    first_s = float(jobs[0]["arrived_s"])
    return Recording(
        policy=str(content["policy"]),
        numbers=dict(content.get("numbers", {})),
        bounds=Bounds(int(content["min"]), int(content["max"])),
        conditions=Conditions(**content["conditions"]),
        arrivals=Arrivals(
            [float(job["arrived_s"]) - first_s for job in jobs],
            [float(job["service_s"]) for job in jobs],
        ),
        waits_s=np.array([float(job["started_s"]) - float(job["arrived_s"]) for job in jobs]),
    )
