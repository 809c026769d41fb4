"""The checks that there are, and running them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.errors import CisError
from cis_tasks.operations.asking import refused
from cis_tasks.operations.doctor.installation import Installation


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Jobs are lost, doubled or not done."""

    WARNING = "warning"
    """It works until something else happens, or costs more than it should."""

    NOTE = "note"
    """Good to know; also what could not be looked at."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        check: name of the check, as ``queues.redrive``.
        level: how bad it is.
        what: what is wrong, on what.
        why: why it matters.
        remedy: how to mend it.
    """

    check: str
    level: Level
    what: str
    why: str
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**vars(self), "level": self.level.value}


Problem = tuple[Level, str, str, str]
"""Level, what, why, remedy."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: family and name, as ``queues.redrive``.
        look: finds what is wrong.
        asks_aws: whether it needs the installation to stand.
    """

    name: str
    look: Callable[[Installation], Iterable[Problem]]
    asks_aws: bool

    @property
    def family(self) -> str:
        """The first part of its name."""
        return self.name.partition(".")[0]

    def run(self, installation: Installation) -> Iterator[Finding]:
        """Findings; one of its own where it could not look."""
        try:
            for problem in self.look(installation):
                yield Finding(self.name, *problem)
        except ClientError as error:
            yield self._blind(error, allowed=not refused(error))
        except (CisError, BotoCoreError) as error:
            yield self._blind(error, allowed=True)

    def _blind(self, error: Exception, *, allowed: bool) -> Finding:
        return Finding(
            self.name,
            Level.WARNING if allowed else Level.NOTE,
            f"It could not be looked at: {error}",
            "What is not looked at may be wrong.",
            "Mend what the message says." if allowed else "Look with credentials that may.",
        )


CHECKS: dict[str, Check] = {}


def check(
    name: str, *, asks_aws: bool = True
) -> Callable[[Callable[[Installation], Iterable[Problem]]], Check]:
    """Register a generator of problems as a check."""

    def register(look: Callable[[Installation], Iterable[Problem]]) -> Check:
        made = CHECKS[name] = Check(name, look, asks_aws)
        return made

    return register


def examine(
    installation: Installation, *, families: Iterable[str] = (), offline: bool = False
) -> list[Finding]:
    """Run the checks; the worst findings first.

    Args:
        installation: what to look at.
        families: only these; all if empty.
        offline: only those that need no AWS, as before a start.
    """
    wanted = set(families)
    found = [
        finding
        for each in CHECKS.values()
        if (not wanted or each.family in wanted) and not (offline and each.asks_aws)
        for finding in each.run(installation)
    ]
    return sorted(found, key=lambda finding: list(Level).index(finding.level))
