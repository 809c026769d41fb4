"""A job run again here, on the very bytes that it was run on, and compared with its record."""

from __future__ import annotations

import hashlib
import math
import pdb  # noqa: T100  asked for with --debug
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cis_tasks import aws, storage
from cis_tasks.errors import PermanentError
from cis_tasks.execution import Stopwatch
from cis_tasks.jobs import Job, Outcome, Progress, no_progress
from cis_tasks.manifest import Manifest
from cis_tasks.operations.described import describe
from cis_tasks.pipelines import Pipeline, find

RELATIVE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was.

    Attributes:
        what: where in the record, as ``result.time_offset_s``.
        stored: what the record says.
        replayed: what came out here.
    """

    what: str
    stored: Any
    replayed: Any


@dataclass(frozen=True)
class Replay:
    """A finished replay.

    Attributes:
        job: the job.
        manifest: its record; None where it has none, as for a dead letter.
        folder: where its inputs and new outputs are.
        outcome: what came out; None where the run refused its input.
        error: why it did.
        timings_s: stage → seconds, here.
        differences: what is not as in the record.
    """

    job: Job
    manifest: Manifest | None
    folder: Path
    outcome: Outcome | None
    error: PermanentError | None
    timings_s: Mapping[str, float]
    differences: tuple[Difference, ...]


def replay(
    job: str,
    folder: Path,
    *,
    debug: bool = False,
    tolerance: float = RELATIVE_TOLERANCE,
    progress: Progress = no_progress,
) -> Replay:
    """Fetch a job's very inputs, run its pipeline in this process, and compare.

    Neither Celery nor a queue takes part, and nothing is written to S3.

    Args:
        job: a job id, or a name for the newest job of it.
        folder: where inputs (``in/<role>/``) and outputs (``out/``) go.
        debug: stop in pdb at the pipeline's first line.
        tolerance: numbers that differ by a smaller share count as equal.
        progress: told of every stage.

    Raises:
        PermanentError: nothing describes the job, or an input is gone.
        TransientError: S3 did not answer.
    """
    described = describe(job)
    watch = Stopwatch(progress)
    pipeline = find(described.job.pipeline)
    watch("fetch")
    inputs = _fetch(pipeline, described.job, folder / "in")
    watch("load")
    run = pipeline.load()
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    outcome, error = None, None
    try:
        if debug:
            outcome = pdb.Pdb(nosigint=True).runcall(run, inputs, out, described.job.params, watch)
        else:
            outcome = run(inputs, out, described.job.params, watch)
    except PermanentError as refused:
        error = refused
    watch.stop()
    differences: tuple[Difference, ...] = ()
    if described.manifest is not None:
        found = compare(described.manifest, pipeline, outcome, error, out, tolerance)
        differences = tuple(found)
    return Replay(
        described.job, described.manifest, folder, outcome, error, watch.seconds, differences
    )


def compare(  # noqa: PLR0917
    manifest: Manifest,
    pipeline: Pipeline,
    outcome: Outcome | None,
    error: PermanentError | None,
    out: Path,
    tolerance: float,
) -> Iterator[Difference]:
    """What of a record is not as it came out here."""
    status = "succeeded" if outcome else "failed"
    if manifest.status != status:
        yield Difference("status", manifest.status, status)
    stored_code = manifest.error.code if manifest.error else None
    code = error.code if error else None
    if stored_code != code:
        yield Difference("error.code", stored_code, code)
    if manifest.pipeline_version != pipeline.version:
        yield Difference("pipeline_version", manifest.pipeline_version, pipeline.version)
    if outcome is None:
        return
    if manifest.model is not None:
        then, now = manifest.model, (outcome.model, outcome.model_version)
        if (then.name, then.version) != now:
            yield Difference("model", f"{then.name} {then.version}", " ".join(now))
    yield from _values("result", manifest.result, dict(outcome.summary), tolerance)
    yield from _files(manifest, outcome, out)


def _values(where: str, stored: Any, replayed: Any, tolerance: float) -> Iterator[Difference]:
    """Differences between two JSON values."""
    if isinstance(stored, Mapping) and isinstance(replayed, Mapping):
        for key in sorted({*stored, *replayed}):
            pair = stored.get(key), replayed.get(key)
            yield from _values(f"{where}.{key}", *pair, tolerance)
    elif _is_list(stored) and _is_list(replayed) and len(stored) == len(replayed):
        for index, pair in enumerate(zip(stored, replayed, strict=True)):
            yield from _values(f"{where}[{index}]", *pair, tolerance)
    elif not _equal(stored, replayed, tolerance):
        yield Difference(where, stored, replayed)


def _equal(stored: Any, replayed: Any, tolerance: float) -> bool:
    numbers = (int, float)
    if isinstance(stored, numbers) and isinstance(replayed, numbers):
        return math.isclose(stored, replayed, rel_tol=tolerance, abs_tol=1e-12)
    return bool(stored == replayed)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _files(manifest: Manifest, outcome: Outcome, out: Path) -> Iterator[Difference]:
    made = {path.relative_to(out).as_posix(): path for path in outcome.files}
    for name in sorted({*made, *manifest.outputs}):
        stored = manifest.outputs[name].sha256[:12] if name in manifest.outputs else None
        replayed = _checksum(made[name])[:12] if name in made else None
        if stored != replayed:
            yield Difference(f"outputs.{name}", stored, replayed)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(pipeline: Pipeline, job: Job, folder: Path) -> Mapping[str, Path]:
    paths = {}
    for name, ref in job.inputs.items():
        pipeline.role(name)
        path = folder / name / Path(ref.key).name[-60:]
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.fetch(aws.s3(), ref, path)
        paths[name] = path
    return paths
