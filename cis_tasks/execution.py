"""One attempt at a job: fetch, run, store, and the manifest that makes it count once."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cis_tasks import storage
from cis_tasks.errors import PermanentError, TransientError
from cis_tasks.jobs import Job, Outcome, Progress, no_progress
from cis_tasks.manifest import Answer, Failure, Manifest, Model, Output
from cis_tasks.pipelines import PIPELINES, Pipeline, find

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MAX_NAME_BYTES = 240  # file systems take 255
NEW_S = 1.0  # what waited for longer may have been cancelled meanwhile

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Attempt:
    """One try at a job.

    Attributes:
        number: which try it is, from 1.
        worker: who makes it, for the manifest.
        scratch: folder for working files; the system's temporary folder where None.
        waited_s: how long ago the job was published; None where nobody knows.
        max_input_bytes: of a larger input nothing is downloaded; None where any size is taken that
            its role does.
    """

    number: int = 1
    worker: str = "local"
    scratch: Path | None = None
    waited_s: float | None = None
    max_input_bytes: int | None = None


class Stopwatch:
    """Passes progress on and keeps the seconds that each stage took."""

    def __init__(self, report: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._report = report
        self._stage = ""
        self._since = time.perf_counter()

    def __call__(self, stage: str, fraction: float = 0.0) -> None:
        """Report progress; a new stage ends the one before."""
        if stage != self._stage:
            self.stop()
            self._stage, self._since = stage, time.perf_counter()
        self._report(stage, fraction)

    def stop(self) -> None:
        """End the stage that runs now."""
        if self._stage:
            passed = time.perf_counter() - self._since
            total = self.seconds.get(self._stage, 0.0) + passed
            self.seconds[self._stage] = round(total, 3)
        self._stage = ""


def execute(
    s3: S3Client,
    bucket: str,
    job: Job,
    *,
    attempt: Attempt = Attempt(),
    progress: Progress = no_progress,
    ended: Callable[[Manifest], object] = lambda _: None,
) -> Answer:
    """Do ``job`` unless it is done, and answer from its manifest.

    The manifest is written last and only where there is none: of any number of workers that run
    the same job, one owns the effect and all give its answer.

    Args:
        s3: client.
        bucket: output bucket.
        job: what to do.
        attempt: which try this is, and whose.
        progress: told of every stage.
        ended: told of the record, if it is this call that wrote it.

    Raises:
        PermanentError: the input is bad; the manifest says so too.
        TransientError: the same job may succeed later; nothing was concluded.
    """
    done = None if _is_new(job, attempt) else storage.read_manifest(s3, bucket, job)
    if done is None:
        manifest = _attempt(s3, bucket, job, attempt, progress)
        done = _conclude(s3, bucket, job, manifest)
        log.info("job_ended", job_id=job.id, status=done.status, attempt=attempt.number)
        if done is manifest:
            ended(done)
    else:
        log.info("job_already_ended", job_id=job.id, status=done.status)
    storage.point_latest(s3, bucket, job, done)  # also after a crash between the two writes
    return done.answer()


def _is_new(job: Job, attempt: Attempt) -> bool:
    """Whether a job has hardly had the time to end: running it costs less than a look.

    Clocks that do not agree make a job seem old, or published later than now: then it is looked at.
    """
    waited_s = attempt.waited_s
    just_now = waited_s is not None and abs(waited_s) < NEW_S
    return just_now and attempt.number == 1 and _is_brief(job)


def _is_brief(job: Job) -> bool:
    known = PIPELINES.get(job.pipeline)
    return known is not None and known.brief


def _attempt(s3: S3Client, bucket: str, job: Job, attempt: Attempt, progress: Progress) -> Manifest:
    """Run the job and store its files; the manifest that would end it, not yet written."""
    started_at, watch = datetime.now(UTC), Stopwatch(progress)
    failure: Failure | None = None
    outcome: Outcome | None = None
    outputs: dict[str, Output] = {}
    uploaded: list[datetime] = []
    pipeline_version = job.pipeline_version
    with _workplace(job, attempt) as folder:
        out = folder / "out"
        out.mkdir(exist_ok=True)
        try:
            pipeline = find(job.pipeline)
            pipeline_version = pipeline.version
            watch("fetch")
            inputs = _fetch(s3, job, _limits(pipeline, job, attempt), folder, uploaded)
            watch("load")
            run = pipeline.load()
            outcome = run(inputs, out, job.params, watch)
        except PermanentError as error:
            failure = Failure(code=error.code, message=error.message, hint=error.hint)
        watch("store")
        # A run that failed may have left files that show why.
        files = outcome.files if outcome else sorted(p for p in out.rglob("*") if p.is_file())
        outputs = storage.store(s3, bucket, job, out, files)
    watch.stop()
    return Manifest(
        job_id=job.id,
        status="failed" if failure else "succeeded",
        job=job.to_dict(),
        bucket=bucket,
        outputs=outputs,
        result=dict(outcome.summary) if outcome else {},
        error=failure,
        model=Model(name=outcome.model, version=outcome.model_version) if outcome else None,
        pipeline_version=pipeline_version,
        inputs_at=max(uploaded, default=None),
        started_at=started_at,
        finished_at=datetime.now(UTC),
        timings_s=watch.seconds,
        worker=attempt.worker,
        attempt=attempt.number,
    )


@contextmanager
def _workplace(job: Job, attempt: Attempt) -> Iterator[Path]:
    """A folder without files; one that is kept where making it would cost more than the job."""
    if not _is_brief(job):
        with tempfile.TemporaryDirectory(prefix="cis-", dir=attempt.scratch) as folder:
            yield Path(folder)
        return
    kept = getattr(_threads, "folder", None)
    if kept is None or not Path(kept.name).is_dir():
        kept = tempfile.TemporaryDirectory(prefix="cis-", dir=attempt.scratch)
        _threads.folder = kept  # removed when the thread ends
    try:
        yield Path(kept.name)
    finally:
        for folder, _, files in os.walk(kept.name):
            for file in files:
                Path(folder, file).unlink()


_threads = threading.local()


def _limits(pipeline: Pipeline, job: Job, attempt: Attempt) -> Mapping[str, int | None]:
    """Role → most bytes of each input of a job."""
    limits = {}
    for name in job.inputs:
        given = (pipeline.role(name).max_bytes, attempt.max_input_bytes)
        limits[name] = min((limit for limit in given if limit is not None), default=None)
    return limits


def _fetch(
    s3: S3Client,
    job: Job,
    max_bytes: Mapping[str, int | None],
    folder: Path,
    uploaded: list[datetime],
) -> Mapping[str, Path]:
    """Download a job's inputs; each keeps its own file name, so that errors can name it."""
    paths = {}
    for name, ref in job.inputs.items():
        path = folder / name / _file_name(ref.key)
        path.parent.mkdir(exist_ok=True)
        uploaded.append(storage.fetch(s3, ref, path, max_bytes=max_bytes[name]))
        paths[name] = path
    return paths


def _file_name(key: str) -> str:
    """The end of a key as a file may be called: whole, or its end where it is too long."""
    name = key.rpartition("/")[2].replace("\0", "_")
    return name.encode()[-MAX_NAME_BYTES:].decode(errors="ignore")


def _conclude(s3: S3Client, bucket: str, job: Job, manifest: Manifest) -> Manifest:
    """Write the manifest, or learn that another worker has."""
    if storage.write_manifest(s3, bucket, job, manifest):
        return manifest
    winner = storage.read_manifest(s3, bucket, job)
    if winner is None:
        raise TransientError(
            "manifest_contended", f"The manifest of job {job.id} was being written by another."
        )
    log.warning("effect_owned_by_another", job_id=job.id, worker=winner.worker)
    return winner
