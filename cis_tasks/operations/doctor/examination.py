"""All checks together."""

from __future__ import annotations

from collections.abc import Sequence

from cis_tasks.operations.doctor import (  # noqa: F401  each registers its checks
    buckets,
    configuration,
    machines,
    queues,
    surroundings,
)
from cis_tasks.operations.doctor.installation import Installation
from cis_tasks.operations.doctor.registry import CHECKS, Finding, examine


def families() -> list[str]:
    """What the checks are about, each once."""
    return list(dict.fromkeys(check.family for check in CHECKS.values()))


def run(only: Sequence[str] = (), *, offline: bool = False) -> list[Finding]:
    """Examine the installation of this environment; the worst findings first."""
    return examine(Installation(), families=only, offline=offline)
