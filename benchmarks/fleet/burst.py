"""A burst on the laptop fleet, recorded so that the simulator can be held against it.

python benchmarks/fleet/burst.py POLICY MIN RECORDING
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import numpy as np

from cis_tasks.inputs import job_from_urls
from cis_tasks.jobs import Job
from cis_tasks.local import cloud as clouds
from cis_tasks.local.fleet.fleet import METRIC_PERIOD_S, Fleet, Options, Pace, stack_parameters
from cis_tasks.local.fleet.fleet import start as start_fleet
from cis_tasks.local.fleet.table import curve
from cis_tasks.pipelines import find
from cis_tasks.publish import publish_many

HERE = Path(__file__).parent
PACE = Pace(boot_s=5.0, again_s=1.0, drain_poll_s=0.5, hold_s=1.0)
SERVICE_S, VARIATION = 2.0, 0.5
WAIT_S = 30.0
TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Trial:
    """A burst to run.

    Attributes:
        policy: ``step``, ``target`` or ``slo``.
        minimum: fewest instances; there are so many when the burst comes.
        maximum: most.
        jobs: how many come at once.
    """

    policy: str
    minimum: int
    maximum: int = 4
    jobs: int = 60

    @property
    def numbers(self) -> dict[str, Any]:
        """What the simulated policy is made with, to be the fleet's."""
        if self.policy == "step":
            return {"period_s": METRIC_PERIOD_S, "warmup_s": 0.0, "every_s": 1.0}
        return {"wait_s": WAIT_S, "every_s": PACE.publish_s}


def run(trial: Trial, file: Path) -> str:
    """Run a burst on a laptop cloud; this process's environment leads to it from then on."""
    with tempfile.TemporaryDirectory() as folder:
        parameters = stack_parameters(trial.policy, trial.minimum, trial.maximum)
        with clouds.start(state=Path(folder), workers=0, parameters=parameters) as cloud:
            os.environ.update(cloud.environment)
            with start_fleet(cloud, options_of(trial)) as fleet:
                return burst(trial, fleet, file)


def options_of(trial: Trial) -> Options:
    root = HERE.parents[1]
    return Options(
        trial.policy,
        PACE,
        pipelines=("spine",),
        app="sleeper",
        variables={
            "PYTHONPATH": os.pathsep.join((str(root), str(HERE))),
            "CIS_SCALING_WAIT_S": str(WAIT_S),
            "CIS_SCALING_SERVICE_S_SPINE": str(SERVICE_S),
            "OMP_NUM_THREADS": "1",
        },
    )


def burst(trial: Trial, fleet: Fleet, file: Path) -> str:
    await_idle(trial, fleet)
    jobs = jobs_of(trial, fleet)
    # The simulated clock begins with a period of the alarms, so this one does.
    time.sleep(METRIC_PERIOD_S - time.time() % METRIC_PERIOD_S)
    arrived_s = time.time()
    publish_many(boto3.client("sqs"), fleet.cloud.stack.queue_urls, jobs)
    await_idle(trial, fleet, after_s=arrived_s + METRIC_PERIOD_S)
    recording = {
        "policy": trial.policy,
        "numbers": trial.numbers,
        "min": trial.minimum,
        "max": trial.maximum,
        "conditions": conditions_of(fleet),
        "jobs": ran(fleet, jobs, arrived_s),
    }
    file.write_text(json.dumps(recording), encoding="utf-8")
    begun_s = fleet.samples["spine"][-1].time_s - (time.time() - arrived_s)
    shown = [replace(s, time_s=s.time_s - begun_s) for s in fleet.samples["spine"]]
    return curve([sample for sample in shown if sample.time_s >= 0])


def jobs_of(trial: Trial, fleet: Fleet) -> list[Job]:
    """Jobs of log-normal length on the same two objects, each free of the others."""
    bucket, s3 = fleet.cloud.stack.output_bucket, boto3.client("s3")
    for key in ("a.csv", "a.mp4"):  # beside the input bucket: no event makes a job of them
        s3.put_object(Bucket=bucket, Key=key, Body=b"-")
    urls = {"sensor_data": f"s3://{bucket}/a.csv", "video_footage": f"s3://{bucket}/a.mp4"}
    first = job_from_urls(find("spine"), urls, {}, name="first")
    spread = np.sqrt(np.log(1 + VARIATION**2))
    draw = np.random.default_rng(1).lognormal(np.log(SERVICE_S) - spread**2 / 2, spread, trial.jobs)
    return [
        replace(first, name=f"burst {number}", params={"sleep_s": round(float(sleep_s), 3)})
        for number, sleep_s in enumerate(draw)
    ]


def await_idle(trial: Trial, fleet: Fleet, after_s: float = 0.0) -> None:
    """Wait until the fleet has its fewest instances and nothing to do."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        samples = fleet.samples["spine"]
        if samples and time.time() > after_s:
            now = samples[-1]
            busy = now.visible + now.in_flight + now.pending + now.leaving
            if not busy and now.in_service == now.desired == trial.minimum:
                return
        time.sleep(0.2)
    raise SystemExit(f"The fleet did not come to rest within {TIMEOUT_S:.0f} s: {samples[-1:]}")


def conditions_of(fleet: Fleet) -> dict[str, float]:
    """What the fleet's instances were like: its boots as they were, readings as often."""
    boots = [
        one.in_service_s - one.launched_s
        for one in fleet.groups["spine"].instances
        if one.in_service_s is not None
    ]
    mean_s = statistics.fmean(boots)
    variation = statistics.stdev(boots) / mean_s if len(boots) > 1 else 0.0
    return {"boot_s": mean_s, "boot_variation": variation, "publish_s": PACE.publish_s}


def ran(fleet: Fleet, jobs: Sequence[Job], arrived_s: float) -> list[dict[str, float]]:
    """Of each job when it came, when it began and how long it kept its worker.

    A worker is kept until its next job begins, or, after its last one, until that ended: receiving
    and settling a message is part of the service time.
    """
    manifests = [manifest_of(fleet, job) for job in jobs]
    by_worker = defaultdict(list)
    for manifest in manifests:
        by_worker[manifest["worker"]].append(manifest)
    kept: dict[str, float] = {}
    for worker in by_worker.values():
        worker.sort(key=lambda manifest: moment(manifest["started_at"]))
        for one, following in itertools.zip_longest(worker, worker[1:]):
            until = following["started_at"] if following else one["finished_at"]
            kept[one["job_id"]] = moment(until) - moment(one["started_at"])
    return [
        {
            "arrived_s": arrived_s,
            "started_s": moment(manifest["started_at"]),
            "service_s": kept[manifest["job_id"]],
        }
        for manifest in manifests
    ]


def manifest_of(fleet: Fleet, job: Job) -> dict[str, Any]:
    body = boto3.client("s3").get_object(
        Bucket=fleet.cloud.stack.output_bucket, Key=job.manifest_key
    )["Body"]
    return dict(json.loads(body.read()))


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    policy, minimum, recording = sys.argv[1:]
    sys.stderr.write(run(Trial(policy, int(minimum)), Path(recording)) + "\n")
