"""The forms in which the API speaks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from cis_tasks.pipelines import PIPELINES

Status = Literal["queued", "running", "retrying", "succeeded", "failed", "given_up", "cancelled"]
ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "given_up", "cancelled"})

Name = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
]
RoleName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-z_]+$")]


def _known(name: str) -> str:
    if name not in PIPELINES:
        raise ValueError(f"it must be one of {', '.join(PIPELINES)}")
    return name


PipelineName = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": [*PIPELINES]})
]


class Form(BaseModel):
    """A request's body: what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Links(BaseModel):
    """Where more is to be had, as paths of this server."""

    self: str
    events: str
    results: str


class JobFailure(BaseModel):
    """Why there is no answer."""

    code: str
    message: str
    hint: str = ""


class JobView(BaseModel):
    """A job, as far as it has come."""

    job_id: str
    status: Status
    pipeline: str | None = None
    name: str | None = Field(
        None, description="What people call it: the file's name, or the session's."
    )
    stage: str = Field("", description="What its worker is doing.")
    fraction: float = Field(0.0, description="How far that stage is, from 0 to 1.")
    note: str = Field("", description="Why it is tried again or was given up.")
    result: dict[str, Any] | None = Field(None, description="The answer of a job that succeeded.")
    error: JobFailure | None = Field(None, description="Why a job failed.")
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float | None = Field(None, description="How long the run took that ended it.")
    timings_s: dict[str, float] = Field(default_factory=dict, description="Seconds per stage.")
    worker: str | None = None
    links: Links


class JobList(BaseModel):
    """Newest jobs first."""

    jobs: list[JobView]
    more: bool = Field(description="Whether there are further ones that were not looked at.")


class JobRequest(Form):
    """Objects that are in the input bucket, as one job."""

    pipeline: PipelineName
    inputs: dict[RoleName, Annotated[str, StringConstraints(min_length=1, max_length=1024)]] = (
        Field(description="Role → key in the input bucket.", min_length=1, max_length=8)
    )
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of the pipeline.")
    force: bool = Field(default=False, description="Run again what has been run.")
    webhook: Annotated[str, StringConstraints(max_length=2000)] | None = Field(
        None, description="URL that is told of the job's end."
    )


class UploadFile(Form):
    """A file that is to be uploaded."""

    filename: Name
    size: int = Field(ge=1, le=5 << 30, description="Bytes.")


class UploadRequest(Form):
    """The files of one job that are to go straight to S3."""

    pipeline: PipelineName
    files: list[UploadFile] = Field(min_length=1, max_length=8)
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of the pipeline.")


class UploadTarget(BaseModel):
    """Where one file goes: a multipart POST of all the fields, then the file as ``file``."""

    filename: str
    role: str
    key: str
    url: str
    fields: dict[str, str]


class UploadPlan(BaseModel):
    """Upload the files in this order, then POST ``job`` to ``/v1/jobs``."""

    name: str
    files: list[UploadTarget]
    job: dict[str, Any] = Field(description="The body of POST /v1/jobs that queues the job.")
    expires_at: datetime


class OutputLink(BaseModel):
    """A file that a job wrote."""

    name: str
    size: int
    sha256: str
    url: str = Field(description="Link into S3 that works without credentials, for a time.")


class InputLink(BaseModel):
    """A file that a job read."""

    role: str
    key: str
    url: str = Field(description="Link into S3 that works without credentials, for a time.")


class ResultView(BaseModel):
    """The files of a job that has ended."""

    job_id: str
    status: Status
    result: dict[str, Any]
    error: JobFailure | None = None
    outputs: list[OutputLink]
    inputs: list[InputLink]
    expires_at: datetime
