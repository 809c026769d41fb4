"""A hundred jobs at once on the laptop fleet: it grows to its maximum and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from cis_tasks.local.fleet.fleet import stack_parameters
from cis_tasks.local.fleet.instances import Instance
from cis_tasks.local.fleet.table import curve
from support.cloud import MakeCloud, eventually
from support.fleet import Burst, fleet_on

JOBS, SLEEP_S, MAX = 100, 0.4, 4
PATIENCE_S = 600
MINIMUMS = {"step": 1, "target": 0, "slo": 0}


@dataclass(frozen=True)
class Ran:
    """A burst that is over."""

    burst: Burst
    minimum: int
    instances: list[Instance]
    manifests: list[dict[str, str]]

    @property
    def log(self) -> str:
        """What all workers wrote."""
        workers = [instance.worker for instance in self.instances if instance.worker]
        return "\n".join(worker.log.read_text(errors="replace") for worker in workers)


@pytest.fixture(scope="module")
def bursts(
    make_cloud: MakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Ran]]:
    """All policies side by side: most of their time is waiting for alarms."""
    with ExitStack() as down:
        running = {}
        for policy, minimum in MINIMUMS.items():
            cloud = down.enter_context(make_cloud(stack_parameters(policy, minimum, MAX)))
            folder = tmp_path_factory.mktemp(policy)
            running[policy] = down.enter_context(fleet_on(cloud, folder, policy))
        with ThreadPoolExecutor() as threads:
            yield dict(zip(running, threads.map(run, running, running.values()), strict=True))


def run(policy: str, burst: Burst) -> Ran:
    minimum = MINIMUMS[policy]
    eventually(lambda: burst.settled(minimum), PATIENCE_S)
    gate = burst.log.with_name("gate")
    burst.submit(JOBS, SLEEP_S, gate=str(gate))
    eventually(lambda: burst.now.in_service == MAX, PATIENCE_S)
    gate.touch()  # until now none has ended: also where machines start slowly, all are needed
    eventually(lambda: burst.settled(minimum), PATIENCE_S)
    print(f"\n{policy}\n{curve(burst.fleet.samples['spine'])}")
    return Ran(burst, minimum, list(burst.group.instances), burst.manifests())


@pytest.mark.parametrize("policy", MINIMUMS)
def test_a_burst_grows_the_fleet_to_its_maximum_and_no_further(
    bursts: dict[str, Ran], policy: str
) -> None:
    samples = bursts[policy].burst.fleet.samples["spine"]
    assert max(one.in_service + one.pending for one in samples) == MAX
    assert max(one.desired for one in samples) == MAX


@pytest.mark.parametrize("policy", MINIMUMS)
def test_each_job_of_a_burst_runs_once_and_has_one_effect(
    bursts: dict[str, Ran], policy: str
) -> None:
    ran = bursts[policy]
    assert ran.burst.runs == JOBS
    assert sorted(one["name"] for one in map(job_of, ran.manifests)) == sorted(
        job.name for job in ran.burst.jobs
    )
    assert {one["status"] for one in ran.manifests} == {"succeeded"}
    assert {one["attempt"] for one in ran.manifests} == {1}


@pytest.mark.parametrize("policy", MINIMUMS)
def test_scale_in_takes_only_workers_that_have_nothing_to_do(
    bursts: dict[str, Ran], policy: str
) -> None:
    ran = bursts[policy]
    gone = [instance for instance in ran.instances if instance.gone]
    assert len(gone) >= MAX - ran.minimum
    served = [one.worker for one in gone if one.worker and one.in_service_s]  # others just began
    assert {worker.exit_code for worker in served} == {0}
    assert "busy=True" not in ran.log
    assert "job_given_back" not in ran.log


@pytest.mark.parametrize("policy", MINIMUMS)
def test_every_job_names_the_instance_that_ran_it(bursts: dict[str, Ran], policy: str) -> None:
    ran = bursts[policy]
    names = {one["worker"].partition("@")[0] for one in ran.manifests}
    assert names <= {instance.id for instance in ran.instances}
    assert len(names) > 1


def job_of(manifest: dict[str, str]) -> dict[str, str]:
    return dict(manifest["job"])  # type: ignore[call-overload, no-any-return]
