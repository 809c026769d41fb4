"""One Celery task per pipeline in the registry: messages in, answers out, nothing of its own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from celery import Task
from celery.exceptions import Reject
from celery.utils.time import get_exponential_backoff_interval

from cis_tasks import aws, notifications
from cis_tasks.app import app
from cis_tasks.broker.deliveries import receive_count, waited_s
from cis_tasks.errors import JobError, PermanentError, TransientError
from cis_tasks.execution import Attempt, execute
from cis_tasks.inputs import job_from_urls
from cis_tasks.jobs import Job, Progress, no_progress
from cis_tasks.manifest import Answer
from cis_tasks.pipelines import PIPELINES, Pipeline
from cis_tasks.publish import arguments_repr, message_group, message_kwargs
from cis_tasks.settings import settings

PROGRESS = "PROGRESS"
PROGRESS_INTERVAL_S = 2.0  # a state is an S3 object: stages at once, fractions now and then

log = structlog.get_logger(__name__)


class DeadLetterError(JobError, Reject):  # type: ignore[misc]
    """The job was given up; its message goes to the dead-letter queue, from where it can return."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        Exception.__init__(self, code, message, hint)
        self.code, self.message, self.hint = code, message, hint
        self.reason, self.requeue = message, False  # what Celery reads of a Reject


class JobTask(Task):  # type: ignore[misc]  # Celery has no types
    """A task whose id is its job's id.

    ``delay(sensor_data="s3://…", video_footage="s3://…", **params)`` reads the objects' versions
    first: a missing object raises at once, and the same call twice is one job. Roles may be given
    by position, in the registry's order; ``force=True`` makes a new job of the same inputs.
    Everything else is Celery's.
    """

    abstract = True
    typing = False  # the registry knows the arguments
    pipeline: Pipeline

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> Any:
        """Publish the job; Celery's own options and result.

        Raises:
            PermanentError: an input is missing or not of this pipeline.
            TransientError: S3 did not answer.
        """
        job = self.job_for(args or (), kwargs or {})
        options.setdefault("argsrepr", "()")
        options.setdefault("kwargsrepr", arguments_repr(job))
        options.setdefault("time_limit", None)  # the worker's limit holds, whoever publishes
        options.setdefault("MessageGroupId", message_group(self.pipeline.group_of(job)))
        return super().apply_async((), message_kwargs(job), task_id or job.id, **options)

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Any:
        """A signature whose task id is the job's, where all its inputs are named already."""
        made = super().signature(args, *starargs, **starkwargs)
        if self._names_all(made.args, made.kwargs) and "task_id" not in made.options:
            job = self.job_for(made.args, made.kwargs)
            made["args"], made["kwargs"] = (), message_kwargs(job)
            made["options"]["task_id"] = job.id
        return made

    def job_for(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Job:
        """The job that a call asks for.

        Raises:
            PermanentError: the arguments do not name one.
            TransientError: S3 did not answer.
        """
        if "job" in kwargs:
            return Job.from_dict(kwargs["job"])
        roles = [role.name for role in self.pipeline.roles]
        if len(args) > len(roles):
            raise PermanentError(
                "arguments_too_many",
                f"{self.name} was called with {len(args)} inputs.",
                f"It takes {', '.join(roles)}.",
            )
        named = {**dict(zip(roles, args, strict=False)), **kwargs}
        nonce = uuid.uuid4().hex if named.pop("force", False) else ""
        urls = {role: str(named.pop(role)) for role in roles if named.get(role)}
        return job_from_urls(self.pipeline, urls, named, nonce=nonce)

    def run(self, *args: Any, **kwargs: Any) -> Answer:
        """Do the job, once, whoever else tries.

        Raises:
            PermanentError: the input is bad; recorded in the manifest, not retried.
            celery.exceptions.Retry: something else was in the way; tried again later.
            DeadLetterError: attempts ran out, or the message describes no job.
        """
        try:
            job = self.job_for(args, kwargs)
        except PermanentError as error:
            raise DeadLetterError(error.code, error.message, error.hint) from error
        structlog.contextvars.bind_contextvars(job_id=job.id)
        try:
            return execute(
                aws.lean_s3(),
                settings().output_bucket,
                job,
                attempt=self._attempt(),
                progress=self._progress(),
                ended=notifications.job_ended,
            )
        except PermanentError:
            raise
        except Exception as error:
            again = self._again(error)
            if isinstance(again, DeadLetterError):
                self._tell_given_up(job, again)
            raise again from error
        finally:
            structlog.contextvars.unbind_contextvars("job_id")

    def _names_all(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        required = [role.name for role in self.pipeline.roles if role.required]
        given = {role.name for role, _ in zip(self.pipeline.roles, args, strict=False)}
        return "job" in kwargs or given | set(kwargs) >= set(required)

    def _attempt(self) -> Attempt:
        request = self.request
        return Attempt(
            number=(request.retries or 0) + receive_count(request),
            worker=request.hostname or "local",
            scratch=settings().scratch,
            waited_s=waited_s(request),
            max_input_bytes=settings().max_input_bytes,
        )

    def _again(self, error: Exception) -> Exception:
        """What to raise after a failure that may pass: a retry, or the end of the attempts."""
        retries = self.request.retries or 0
        cause = error if isinstance(error, JobError) else None
        code = cause.code if cause else "unexpected"
        message = cause.message if cause else f"{type(error).__name__}: {error}"
        log.warning("attempt_failed", code=code, message=message, attempt=retries + 1)
        if self.request.called_directly:
            return error
        if retries + 1 >= settings().max_attempts:
            return DeadLetterError(
                code, message, f"Given up after {retries + 1} attempts; see the dead-letter queue."
            )
        wait_s = get_exponential_backoff_interval(
            settings().retry_backoff_s, retries, settings().retry_backoff_max_s, full_jitter=False
        )
        again: Exception = self.retry(
            exc=TransientError(code, message), countdown=wait_s, max_retries=None, throw=False
        )
        return again

    def _tell_given_up(self, job: Job, error: DeadLetterError) -> None:
        notifications.job_given_up(
            job,
            (self.request.retries or 0) + 1,
            receive_count(self.request),
            code=error.code,
            message=error.message,
        )

    def _progress(self) -> Progress:
        """Progress as Celery task states, for callers and dashboards."""
        silent = self.request.called_directly or self.request.ignore_result
        if silent or self.pipeline.brief:
            return no_progress
        last_stage, due = "", 0.0

        def report(stage: str, fraction: float = 0.0) -> None:
            nonlocal last_stage, due
            now = time.monotonic()
            if stage == last_stage and now < due:
                return
            last_stage, due = stage, now + PROGRESS_INTERVAL_S
            try:
                self.update_state(state=PROGRESS, meta={"stage": stage, "fraction": fraction})
            except Exception as error:  # news of a job must not end it
                log.warning("progress_not_stored", error=str(error))

        return report


def register(pipeline: Pipeline) -> JobTask:
    """The Celery task that runs ``pipeline``."""
    kind = type(pipeline.task.rpartition(".")[2], (JobTask,), {"name": pipeline.task})
    kind.pipeline = pipeline  # type: ignore[attr-defined]
    if pipeline.brief:
        kind.track_started = False  # type: ignore[attr-defined]  # else Celery's setting holds
    task: JobTask = app.register_task(kind())
    return task


TASKS: Mapping[str, JobTask] = {
    pipeline.task.rpartition(".")[2]: register(pipeline) for pipeline in PIPELINES.values()
}


def __getattr__(name: str) -> JobTask:
    """A pipeline's task by its function name, such as ``calibrate_spine``."""
    try:
        return TASKS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
