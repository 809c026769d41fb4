"""The record that ends a job, and the answer that a caller reads from it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Output(_Record):
    """One file that a job wrote.

    Attributes:
        key: its key in the output bucket.
        size: bytes.
        sha256: checksum of its bytes, hexadecimal.
        version_id: the exact version, where the bucket keeps versions.
    """

    key: str
    size: int
    sha256: str
    version_id: str | None = None


class Failure(_Record):
    """Why a job failed for good; the three parts of a `PermanentError`."""

    code: str
    message: str
    hint: str = ""


class Model(_Record):
    """Which model gave the answer."""

    name: str
    version: str


CANCELLED = "cancelled"
"""The code of a failure that is nobody's fault: somebody did not want the job any more."""


class Manifest(_Record):
    """``manifest.json``: written once, last, by the one worker that owns the job's effect.

    Attributes:
        schema_version: of this form; it grows when a reader has to know.
        job_id: the job's id.
        status: whether there is an answer.
        job: pipeline, name, inputs with their versions, and parameters, as published.
        bucket: the output bucket.
        outputs: file name → what was written.
        result: the answer in a few JSON values.
        error: why there is none; for ``failed`` only.
        model: which model answered.
        pipeline_version: version of the pipeline that ran.
        inputs_at: when the newest input was uploaded.
        started_at: when the attempt that ended the job began.
        finished_at: when it ended.
        timings_s: stage → seconds.
        worker: who ran it.
        attempt: which attempt it was, from 1.
    """

    schema_version: Literal[1] = 1
    job_id: str
    status: Literal["succeeded", "failed"]
    job: dict[str, Any]
    bucket: str
    outputs: dict[str, Output] = Field(default_factory=dict)
    result: dict[str, Any] = Field(default_factory=dict)
    error: Failure | None = None
    model: Model | None = None
    pipeline_version: str
    inputs_at: datetime | None = None
    started_at: datetime
    finished_at: datetime
    timings_s: dict[str, float] = Field(default_factory=dict)
    worker: str
    attempt: int = Field(ge=1)

    @property
    def cancelled(self) -> bool:
        """Whether the job was ended by somebody who did not want it any more."""
        return self.error is not None and self.error.code == CANCELLED

    @property
    def url(self) -> str:
        """The manifest's own ``s3://`` URL."""
        return f"s3://{self.bucket}/{Job.from_dict(self.job).manifest_key}"

    def answer(self) -> Answer:
        """The job's answer.

        Raises:
            PermanentError: the job failed; the very error that ended it.
        """
        if self.error is not None:
            raise PermanentError(self.error.code, self.error.message, self.error.hint)
        return Answer(
            job_id=self.job_id,
            pipeline=self.job["pipeline"],
            name=self.job["name"],
            result=self.result,
            files={name: f"s3://{self.bucket}/{o.key}" for name, o in self.outputs.items()},
            manifest=self.url,
        )


class Answer(_Record):
    """What ``calibrate_spine.delay(…).get()`` returns.

    Attributes:
        job_id: the job's id.
        pipeline: the pipeline that answered.
        name: session or image name.
        result: the answer in a few JSON values; the pipeline's documentation lists them.
        files: file name → ``s3://`` URL of every file that the job wrote.
        manifest: ``s3://`` URL of the full record.
    """

    job_id: str
    pipeline: str
    name: str
    result: Mapping[str, Any]
    files: Mapping[str, str]
    manifest: str

    def __repr__(self) -> str:
        """Without the name and the answer: dashboards and logs show it."""
        return f"Answer(job_id={self.job_id!r}, pipeline={self.pipeline!r})"
