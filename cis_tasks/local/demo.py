"""``cis demo``: the main job end to end on the laptop cloud, held against the known truth."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from cis_tasks import aws
from cis_tasks.console import console, show, stage_seconds, stages
from cis_tasks.errors import CisError
from cis_tasks.jobs import Job
from cis_tasks.join import find_job
from cis_tasks.local.cloud import Cloud, start
from cis_tasks.manifest import Manifest
from cis_tasks.pipelines import find
from cis_tasks.spine.sample import Sample, write_sample
from cis_tasks.spine.truth import Comparison, compare
from cis_tasks.storage import retrieve

SESSION = "demo"
TIMEOUT_S = 300.0
# Far above what the method leaves on this sample, far below any real mistake.
LIMIT_DEG = 0.5
LIMIT_MS = 2.0


def run(state: Path) -> bool:
    """Make a sample, upload it with ``aws s3 cp``, follow the job, and compare its answer.

    Args:
        state: folder for the cloud's logs, the sample and the results.

    Returns:
        Whether the job succeeded and its errors are within the limits.

    Raises:
        CisError: a part could not be started.
    """
    console.rule("1  A sample session: a person with four sensors, filmed from behind")
    with stages() as progress:
        sample = write_sample(state / "sample", session=SESSION, progress=progress)
    console.rule("2  The laptop cloud: embedded AWS, the stack, a worker")
    with start(state=state / "cloud", workers=0, tell=_tell) as cloud:
        os.environ.update(cloud.environment)
        cloud.add_workers(1, "spine")
        from cis_tasks.following import follow  # noqa: PLC0415  reads the settings just made

        console.rule("3  Two uploads; everything after them happens by itself")
        _upload(sample, cloud)
        job = _job(cloud)
        console.print(f"job {job.id}", highlight=False)
        where = follow(job.id, TIMEOUT_S)
        if where.phase != "succeeded" or where.manifest is None:
            show(where)
            _explain(cloud)
            return False
        console.rule("4  The answer")
        return _answer(sample, where.manifest, state / "results")


def _tell(text: str) -> None:
    console.print(f"[dim]{escape(text)}[/]", highlight=False, soft_wrap=True)


def _upload(sample: Sample, cloud: Cloud) -> None:
    """Upload as a person would, the rig first: it is optional, so its job would not wait for it."""
    for path in (sample.rig, sample.sensor_data, sample.video_footage):
        target = f"s3://{cloud.stack.input_bucket}/{path.parent.name}/{path.name}"
        console.print(f"$ aws s3 cp {path} {target}", highlight=False, soft_wrap=True)
        command = [sys.executable, "-m", "awscli", "s3", "cp", "--only-show-errors"]
        command += [str(path), target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise CisError(f"aws s3 cp failed: {done.stderr.strip() or done.stdout.strip()}")


def _job(cloud: Cloud) -> Job:
    """The job that these uploads make; its id can be told before anybody has run it."""
    job = find_job(aws.s3(), cloud.stack.input_bucket, find("spine"), SESSION)
    if not isinstance(job, Job):
        raise CisError(f"The uploads are not there: {', '.join(job.roles)} missing.")
    return job


def _explain(cloud: Cloud) -> None:
    for pipeline, counts in cloud.queue_counts().items():
        console.print(
            f"queue {pipeline}: {counts.waiting} waiting, {counts.running} running, "
            f"{counts.dead} dead letters"
        )
    for name, worker_state in cloud.worker_states().items():
        console.print(f"worker {name}: {worker_state}")
    console.print(f"logs: {escape(str(cloud.state))}")


def _answer(sample: Sample, manifest: Manifest, folder: Path) -> bool:
    paths = {path.name: path for path in retrieve(aws.s3(), manifest, folder)}
    errors = compare(sample.truth, paths["calibration.json"], paths["angles.parquet"])
    console.print(_angles(manifest, errors))
    console.print(_sensors(errors))
    console.print(
        f"time offset {1e3 * manifest.result['time_offset_s']:.2f} ms "
        f"(error {errors.offset_ms:+.2f} ms)",
        highlight=False,
    )
    console.print(f"stages: {stage_seconds(manifest)}", highlight=False)
    good = _within(errors)
    if not good:
        console.print(
            f"[red]The errors exceed {LIMIT_DEG}° or {LIMIT_MS} ms.[/] "
            "Please report this with the folder below."
        )
    console.print(f"\nmanifest  {manifest.url}", highlight=False, soft_wrap=True)
    console.print(f"report    {paths['report.html'].resolve()}", highlight=False, soft_wrap=True)
    return good


def _angles(manifest: Manifest, errors: Comparison) -> Table:
    table = Table("segments", "flexion", "lateral", "axial", "error", box=None, header_style="dim")
    ranges = {(pair["caudal"], pair["cranial"]): pair for pair in manifest.result["angles"]}
    for pair in errors.pairs:
        found = ranges[pair.caudal, pair.cranial]
        shown = [
            f"{found[axis]['min']:+.1f}° … {found[axis]['max']:+.1f}°"
            for axis in ("flexion_deg", "lateral_deg", "axial_deg")
        ]
        table.add_row(
            f"{pair.caudal}–{pair.cranial}", *shown, f"{pair.rotation_rmse_deg:.2f}° RMSE"
        )
    return table


def _sensors(errors: Comparison) -> Table:
    table = Table("sensor", "mounting error", "bias error", box=None, header_style="dim")
    for sensor, mounting in errors.mounting_deg.items():
        table.add_row(sensor, f"{mounting:.2f}°", f"{errors.bias_deg_s[sensor]:.3f} °/s")
    return table


def _within(errors: Comparison) -> bool:
    worst = max(*(pair.rotation_rmse_deg for pair in errors.pairs), *errors.mounting_deg.values())
    return worst <= LIMIT_DEG and abs(errors.offset_ms) <= LIMIT_MS
