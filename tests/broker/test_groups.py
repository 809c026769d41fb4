"""Jobs of one group run one after another, in order, whatever the pool."""

from __future__ import annotations

import pytest
from jobs import Jobs

from support.cloud import eventually

NAMES = "abcdefgh"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_group_keeps_its_order_in_a_pool_of_four_while_others_run_beside_it(
    jobs: Jobs, pool: str
) -> None:
    for name in NAMES:
        jobs.send("mark", name, 0.1, MessageGroupId="session")
    jobs.send("mark", "other", 0.1)
    jobs.start("--pool", pool, "--concurrency", "4", "--prefetch-multiplier", "3")
    eventually(lambda: all(map(jobs.ended, (*NAMES, "other"))) and jobs.drained())
    times = [float(time) for name in NAMES for _, _, time in jobs.marks(name)]
    assert times == sorted(times)  # start, end, start, end, …
    assert [jobs.started(name) for name in NAMES] == [1] * len(NAMES)


def test_what_waits_behind_a_job_that_goes_back_goes_back_with_it(jobs: Jobs) -> None:
    first = jobs.start("--concurrency", "2", "--prefetch-multiplier", "4")
    for name in NAMES:
        jobs.send("mark", name, 0.5, MessageGroupId="session")
    eventually(lambda: jobs.started("b"))
    first.terminate()
    eventually(lambda: first.exit_code is not None)
    jobs.start("--concurrency", "2", "--prefetch-multiplier", "4")
    eventually(lambda: all(map(jobs.ended, NAMES)) and jobs.drained())
    starts = [float(jobs.marks(name)[0][2]) for name in NAMES]
    assert starts == sorted(starts)
    assert [jobs.started(name) for name in NAMES] == [1] * len(NAMES)
