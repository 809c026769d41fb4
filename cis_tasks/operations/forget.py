"""Deleting all that is kept of a session, and proving it.

What is kept of a name: its inputs and outputs with all their versions and delete markers, Celery's
states of its jobs, what the web tier noted of them and of their webhooks, its dead letters and the
undelivered events of its uploads. Messages in a job queue cannot be looked through without taking
them from workers, so the proof demands that the queue is empty: what is left in it is run, fails
for want of its inputs, and leaves a new record.
Log lines hold names too and go with their log group's retention.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

import cis_tasks.tasks  # noqa: F401  its error types, so that states can be read
from cis_tasks import aws
from cis_tasks.app import app
from cis_tasks.errors import PermanentError, TransientError
from cis_tasks.jobs import LATEST
from cis_tasks.lookup import JOB_ID
from cis_tasks.operations import dead_letters
from cis_tasks.operations.asking import asking
from cis_tasks.operations.reading import Reading
from cis_tasks.pipelines import PIPELINES, Pipeline
from cis_tasks.settings import WEB_PREFIX, settings
from lambda_trigger.events import Upload, uploads
from scaling.backlog import read_backlog

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

MAX_DELETE = 1000  # keys per DeleteObjects call, S3 limit
LOOK_EVERY_S = 2.0
PARALLEL_READS = 16
STATE = "celery-task-meta-"  # what Celery's states are called


@dataclass(frozen=True, order=True)
class Version:
    """One version of an object, or one delete marker.

    Attributes:
        bucket: where.
        key: which object.
        version_id: which version of it; ``null`` where the bucket keeps none.
        marker: whether it is a delete marker.
    """

    bucket: str
    key: str
    version_id: str
    marker: bool = False


@dataclass(frozen=True)
class Traces:
    """What is kept of one name.

    Attributes:
        name: of the session or image.
        inputs: versions of what was uploaded.
        outputs: versions of what its jobs wrote.
        states: versions of Celery's states of its jobs.
        records: versions of the web tier's records of its jobs and of their webhooks.
        dead: its dead letters.
        events: undelivered events of its uploads.
        waiting: messages of any name in the job queues: those of this one may be among them.
    """

    name: str
    inputs: tuple[Version, ...]
    outputs: tuple[Version, ...]
    states: tuple[Version, ...]
    records: tuple[Version, ...]
    dead: int
    events: int
    waiting: int

    @property
    def kept(self) -> int:
        """How many things are kept of it for certain."""
        return len(self.versions) + self.dead + self.events

    @property
    def versions(self) -> tuple[Version, ...]:
        """Everything that is kept in S3."""
        return (*self.inputs, *self.outputs, *self.states, *self.records)

    @property
    def gone(self) -> bool:
        """Whether it is proved that nothing is kept."""
        return not self.kept and not self.waiting

    def to_dict(self) -> dict[str, Any]:
        """Counts, for programs."""
        parts = ("inputs", "outputs", "states", "records")
        versions = {part: len(getattr(self, part)) for part in parts}
        rest = {part: getattr(self, part) for part in ("dead", "events", "waiting")}
        return {"name": self.name, **versions, **rest, "gone": self.gone}


@dataclass(frozen=True)
class Forgotten:
    """What became of a name.

    Attributes:
        found: what was kept of it, and was deleted.
        left: what was found when it was looked for again.
    """

    found: Traces
    left: Traces

    @property
    def proved(self) -> bool:
        """Whether something was there and nothing is left; a name without a trace may be wrong."""
        return bool(self.found.kept) and self.left.gone


def traces(name: str) -> Traces:
    """What is kept of ``name`` now.

    Raises:
        TransientError: AWS did not answer.
    """
    with asking(f"look for what is kept of {name}"):
        outputs = tuple(_outputs(name))
        letters = [*_dead(name, delete=False)]
        stored = [*_versions(settings().output_bucket, settings().results_prefix)]
        noted = [*_versions(settings().output_bucket, WEB_PREFIX)]
        jobs = {job for version in outputs if (job := _job_in(version.key))}
        jobs |= {label for label in letters if label}
        jobs |= _jobs_noted(name, noted, jobs)
        jobs |= _jobs_stored(name, stored, jobs)
        return Traces(
            name=name,
            inputs=tuple(_inputs(name)),
            outputs=outputs,
            states=tuple(_of_jobs(stored, jobs)),
            records=tuple(_of_jobs(noted, jobs)),
            dead=len(letters),
            events=_events(name, delete=False),
            waiting=_waiting(),
        )


def forget(name: str, *, wait_s: float = 0.0) -> Forgotten:
    """Delete all that is kept of ``name``, and look for it again.

    Args:
        name: of a session or image.
        wait_s: how long to wait at most for the job queues to empty before.

    Raises:
        TransientError: AWS did not do it. Calling it again goes on.
    """
    _await_empty(wait_s)
    before = traces(name)
    with asking(f"delete what is kept of {name}"):
        # Letters and events first: a redrive or a repeated event would make something new.
        for _ in _dead(name, delete=True):
            pass
        _events(name, delete=True)
        _delete(before.versions)
    return Forgotten(before, traces(name))


def _inputs(name: str) -> Iterator[Version]:
    """Versions of the objects that play a role for ``name``; a role's default is nobody's."""
    for pipeline in PIPELINES.values():
        for prefix in dict.fromkeys(role.prefix for role in pipeline.roles):
            for version in _versions(settings().input_bucket, f"{prefix}{name}."):
                placed = pipeline.place(version.key)
                if placed is not None and placed[1] == name and not _default(version.key):
                    yield version


def _default(key: str) -> bool:
    return any(key == role.default_key for p in PIPELINES.values() for role in p.roles)


def _outputs(name: str) -> Iterator[Version]:
    for pipeline in PIPELINES:
        prefix = f"{pipeline}/{name}/"
        for version in _versions(settings().output_bucket, prefix):
            if _of_name(version.key[len(prefix) :]):
                yield version


def _of_name(rest: str) -> bool:
    """Whether a key is of the name itself: ``spine/a/b/…`` is of ``a/b``, not of ``a``."""
    first, _, after = rest.partition("/")
    if first == LATEST and not after:
        return True
    second = after.partition("/")[0]
    deeper = second == LATEST or JOB_ID.fullmatch(second)
    return bool(JOB_ID.fullmatch(first)) and not deeper


def _job_in(key: str) -> str:
    """The job id in a key of an output; empty where there is none."""
    return next((part for part in key.split("/")[2:] if JOB_ID.fullmatch(part)), "")


def _of_jobs(versions: Iterable[Version], jobs: set[str]) -> Iterator[Version]:
    """Those whose keys hold a job's id, as all do that Celery and the web tier write of a job.

    Of Celery that is a state for each, and in a chord a copy of its result.
    """
    for version in versions:
        if jobs & {found.group() for found in JOB_ID.finditer(version.key)}:
            yield version


def _jobs_stored(name: str, stored: Iterable[Version], known: set[str]) -> set[str]:
    """Jobs of the name, besides the known, that have left a state and perhaps nothing else."""
    prefix = settings().results_prefix + STATE
    states = {v.key.removeprefix(prefix) for v in stored if v.key.startswith(prefix)}
    others = sorted(states - known)
    with ThreadPoolExecutor(PARALLEL_READS) as readers:
        metas = readers.map(lambda task: app.backend.get_task_meta(task, cache=False), others)
        return {task for task, meta in zip(others, metas, strict=True) if _is_about(meta, name)}


def _jobs_noted(name: str, noted: Iterable[Version], known: set[str]) -> set[str]:
    """Jobs of the name, besides the known, that the web tier has noted."""
    records = dict[str, Version]()
    for version in noted:  # all versions of a record are of the same job
        found = JOB_ID.search(version.key)
        if found and found.group() not in known and not version.marker:
            records.setdefault(found.group(), version)
    with ThreadPoolExecutor(PARALLEL_READS) as readers:
        names = readers.map(_name_noted, records.values())
        return {job for job, noted_name in zip(records, names, strict=True) if noted_name == name}


def _name_noted(version: Version) -> str:
    """The name in a record of the web tier; empty where it holds none or is there no more."""
    try:
        found = aws.s3().get_object(
            Bucket=version.bucket, Key=version.key, VersionId=version.version_id
        )
        return str(json.loads(found["Body"].read())["job"]["name"])
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "NoSuchVersion"}:
            return ""
        raise
    except (ValueError, KeyError, TypeError):
        return ""


def _is_about(meta: dict[str, Any], name: str) -> bool:
    """Whether a stored state is of a job of ``name``."""
    job = (meta.get("kwargs") or {}).get("job") or {}
    return bool(job.get("name") == name or getattr(meta.get("result"), "name", None) == name)


def _dead(name: str, *, delete: bool) -> Iterator[str]:
    """The task ids of the name's dead letters, which are deleted if asked for."""
    for pipeline in PIPELINES.values():
        url = _dead_letter_url(pipeline)
        found = bool(url)
        while found:
            found = False
            with Reading(aws.sqs(), url) as reading:
                for letter in reading.letters():
                    if letter.job is None or letter.job.name != name:
                        continue
                    if delete:
                        reading.delete(letter)
                        found = True  # others of its group may be behind it
                    yield letter.task_id


def _dead_letter_url(pipeline: Pipeline) -> str:
    try:
        return dead_letters.dead_letter_url(pipeline)
    except PermanentError as error:
        if error.code == "no_dead_letters":
            return ""
        raise


def _events(name: str, *, delete: bool) -> int:
    """How many undelivered events are about the name; they are deleted if asked for."""
    url = _undelivered_url()
    if not url:
        return 0
    count = 0
    with Reading(aws.sqs(), url) as reading:
        for letter in reading.letters():
            if _names_upload(letter.body, name):
                count += 1
                if delete:
                    reading.delete(letter)
    return count


def _undelivered_url() -> str:
    try:
        return aws.sqs().get_queue_url(QueueName=settings().undelivered_queue)["QueueUrl"]
    except ClientError as error:
        if error.response["Error"]["Code"].endswith(("NonExistentQueue", "QueueDoesNotExist")):
            return ""
        raise


def _names_upload(body: str, name: str) -> bool:
    try:
        event = json.loads(body)
    except ValueError:
        return False
    if isinstance(event, dict) and "requestPayload" in event:  # a Lambda destination's wrapping
        event = event["requestPayload"]
    keys = [record.key for record in uploads(event) if isinstance(record, Upload)]
    placed = [pipeline.place(key) for pipeline in PIPELINES.values() for key in keys]
    return any(found is not None and found[1] == name for found in placed)


def _waiting() -> int:
    backlogs = [read_backlog(aws.sqs(), aws.queue_url(p)) for p in PIPELINES.values()]
    return sum(backlog.outstanding for backlog in backlogs)


def _await_empty(wait_s: float) -> None:
    deadline_s = time.monotonic() + wait_s
    with asking("read the job queues"):
        while _waiting() and time.monotonic() < deadline_s:
            time.sleep(LOOK_EVERY_S)


def _versions(bucket: str, prefix: str) -> Iterator[Version]:
    pages = aws.s3().get_paginator("list_object_versions")
    for page in pages.paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Versions", []):
            yield Version(bucket, item["Key"], item["VersionId"])
        for marker in page.get("DeleteMarkers", []):
            yield Version(bucket, marker["Key"], marker["VersionId"], marker=True)


def _delete(versions: Iterable[Version]) -> None:
    """Delete versions for good.

    Raises:
        TransientError: S3 refused one.
    """
    by_bucket: dict[str, list[Version]] = {}
    for version in versions:
        by_bucket.setdefault(version.bucket, []).append(version)
    for bucket, mine in by_bucket.items():
        for start in range(0, len(mine), MAX_DELETE):
            _delete_batch(bucket, mine[start : start + MAX_DELETE])


def _delete_batch(bucket: str, versions: Sequence[Version]) -> None:
    objects: list[ObjectIdentifierTypeDef] = [
        {"Key": version.key, "VersionId": version.version_id} for version in versions
    ]
    answer = aws.s3().delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    for refusal in answer.get("Errors", []):
        raise TransientError(
            "not_deleted",
            f"S3 did not delete s3://{bucket}/{refusal.get('Key')}: "
            f"{refusal.get('Code')} {refusal.get('Message')}.",
            "An object lock or a missing right to s3:DeleteObjectVersion keeps it.",
        )
