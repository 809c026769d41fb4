"""How a job stands, from its Celery state, its manifest, and the tier's own records."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from celery import states

from cis_tasks import storage
from cis_tasks.broker.results import Backend
from cis_tasks.errors import JobError, PermanentError
from cis_tasks.jobs import Job
from cis_tasks.manifest import CANCELLED, Answer, Manifest
from cis_tasks.web.records import Record, Records
from cis_tasks.web.schemas import ENDED, JobFailure, JobView, Links, Status

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MAX_REMEMBERED = 4_000  # jobs that have ended: what they are does not change
PARALLEL_READS = 8
LISTED = 200  # newest jobs that a listing looks at
CHOICE: dict[str, Status] = {
    states.PENDING: "queued",
    states.RECEIVED: "queued",
    states.RETRY: "retrying",
    states.REVOKED: "cancelled",
    states.SUCCESS: "succeeded",
}


class Views:
    """Looks jobs up; every call blocks, so it belongs into a thread."""

    def __init__(self, backend: Backend, s3: S3Client, bucket: str, records: Records) -> None:
        self._backend, self._s3, self._bucket = backend, s3, bucket
        self._records = records
        self._ended: OrderedDict[str, JobView] = OrderedDict()
        self._begun: dict[str, JobView] = {}
        self._etags: dict[str, str] = {}

    def find(self, job_id: str) -> JobView | None:
        """A job as far as it has come; None where nothing is known of it."""
        if (known := self._ended.get(job_id)) is not None:
            return known
        meta = self._backend.look_up([job_id])[job_id]
        return self._keep(self._view(job_id, meta))

    def job(self, job_id: str) -> Job | None:
        """What a job is; None where nothing describes it."""
        return self._job(job_id, self._backend.look_up([job_id])[job_id])

    def manifest(self, job_id: str) -> Manifest | None:
        """A job's manifest, once there is one."""
        job = self.job(job_id)
        return storage.read_manifest(self._s3, self._bucket, job) if job else None

    def newest(self) -> tuple[list[JobView], bool]:
        """The newest jobs, and whether there are more."""
        prefix = self._backend.get_key_for_task("*")[:-1]
        listed = sorted(
            self._backend.objects.list(prefix), key=lambda item: item.modified, reverse=True
        )
        etags = {item.key[len(prefix) :]: item.etag for item in listed[:LISTED]}
        self._read_changed(etags)
        found = (self._ended.get(job_id) or self._begun.get(job_id) for job_id in etags)
        begun = [view for view in found if view is not None]
        waiting = [queued(r) for r in self._records.newest() if r.job.id not in etags]
        return [*waiting, *begun], len(listed) > LISTED

    def _read_changed(self, etags: Mapping[str, str]) -> None:
        """Read those states that have changed since the last listing; job id → ETag."""
        changed = [
            job_id
            for job_id, etag in etags.items()
            if job_id not in self._ended and self._etags.get(job_id) != etag
        ]
        metas = self._backend.look_up(changed)
        with ThreadPoolExecutor(PARALLEL_READS) as readers:
            views = readers.map(lambda job_id: self._view(job_id, metas[job_id]), changed)
            kept = {view.job_id: view for view in map(self._keep, views) if view is not None}
        self._begun = {
            job_id: view
            for job_id, view in {**self._begun, **kept}.items()
            if job_id in etags and job_id not in self._ended
        }
        self._etags = dict(etags)

    def _keep(self, view: JobView | None) -> JobView | None:
        if view is not None and view.status in ENDED:
            self._ended[view.job_id] = view
            self._records.forget(view.job_id)
            if len(self._ended) > MAX_REMEMBERED:
                self._ended.popitem(last=False)
        return view

    def _view(self, job_id: str, meta: Mapping[str, Any] | None) -> JobView | None:
        job = self._job(job_id, meta)
        if meta is None or meta["status"] == states.PENDING:
            record = self._records.find(job_id)
            return queued(record) if record else None
        view = view_of(job_id, meta, job)
        if view.status in {"succeeded", "failed", "cancelled"} and job is not None:
            manifest = storage.read_manifest(self._s3, self._bucket, job)
            if manifest is not None:
                return with_manifest(view, manifest)
        return view

    def _job(self, job_id: str, meta: Mapping[str, Any] | None) -> Job | None:
        described = ((meta or {}).get("kwargs") or {}).get("job")
        if described:
            return Job.from_dict(described)
        record = self._records.find(job_id)
        return record.job if record else None


def links_of(job_id: str) -> Links:
    """Where more of a job is to be had."""
    path = f"/v1/jobs/{job_id}"
    return Links(self=path, events=f"{path}/events", results=f"/v1/results/{job_id}")


def queued(record: Record) -> JobView:
    """A job that nothing else is known of."""
    return JobView(
        job_id=record.job.id,
        status="queued",
        pipeline=record.job.pipeline,
        name=shown_name(record.job),
        submitted_at=record.submitted_at,
        links=links_of(record.job.id),
    )


def view_of(job_id: str, meta: Mapping[str, Any], job: Job | None = None) -> JobView:
    """A job as its Celery state tells it."""
    result = meta.get("result")
    described = (meta.get("kwargs") or {}).get("job")
    job = job or (Job.from_dict(described) if described else None)
    view = JobView(
        job_id=job_id,
        status=_status(meta["status"], result),
        pipeline=job.pipeline if job else None,
        name=shown_name(job) if job else None,
        worker=meta.get("worker"),
        links=links_of(job_id),
    )
    if isinstance(result, Answer):
        return view.model_copy(update={"result": dict(result.result)})
    if isinstance(result, dict) and "stage" in result:
        progress = {"stage": result["stage"], "fraction": float(result["fraction"])}
        return view.model_copy(update=progress)
    if isinstance(result, PermanentError) and view.status == "failed":
        error = JobFailure(code=result.code, message=result.message, hint=result.hint)
        return view.model_copy(update={"error": error})
    if isinstance(result, Exception):
        return view.model_copy(update={"note": _words(result)})
    return view


def with_manifest(view: JobView, manifest: Manifest) -> JobView:
    """A job that has ended, with all that its manifest tells."""
    seconds = (manifest.finished_at - manifest.started_at).total_seconds()
    told: dict[str, Any] = {}
    if manifest.error is not None and manifest.cancelled:
        told = {"note": manifest.error.message}
    elif manifest.error is not None:
        told = {"error": JobFailure(**manifest.error.model_dump())}
    return view.model_copy(
        update={
            **told,
            "status": status_of(manifest),
            "result": manifest.result or None,
            "submitted_at": manifest.inputs_at or view.submitted_at,
            "started_at": manifest.started_at,
            "finished_at": manifest.finished_at,
            "seconds": round(seconds, 3),
            "timings_s": manifest.timings_s,
            "worker": manifest.worker,
        }
    )


def status_of(manifest: Manifest) -> Status:
    """How the job of a manifest ended."""
    return "cancelled" if manifest.cancelled else manifest.status


def shown_name(job: Job) -> str:
    """What a person called it: without the folder that makes an upload's name unique."""
    return PurePosixPath(job.name).name


def _status(state: str, result: Any) -> Status:
    if state == states.FAILURE:
        if not isinstance(result, PermanentError):
            return "given_up"
        return "cancelled" if result.code == CANCELLED else "failed"
    return CHOICE.get(state, "running")


def _words(error: Exception) -> str:
    return error.message if isinstance(error, JobError) else str(error)
