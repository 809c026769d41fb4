"""The one reader of the environment; AWS's own variables are read by boto3."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cis_tasks.errors import SettingsError
from cis_tasks.pipelines import PIPELINES

WEB_PREFIX = "celery/web/"
"""Where in the output bucket the web tier notes jobs and webhooks."""


class Settings(BaseSettings):
    """What differs from one installation to another; each field is read from ``CIS_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix="CIS_", frozen=True, extra="ignore")

    input_bucket: str = Field("cis-data-input", min_length=3)
    """Bucket that inputs are uploaded to."""

    output_bucket: str = Field("cis-data-output", min_length=3)
    """Bucket that answers are written to."""

    queue_urls: dict[str, str] = Field(default_factory=dict)
    """Pipeline → queue URL, from ``CIS_QUEUE_URL_<PIPELINE>``; else SQS is asked by name."""

    undelivered_queue: str = "CIS_S3_events_undelivered"
    """Name of the queue of upload events that the Lambda could not handle."""

    health_port: int | None = Field(None, ge=0, le=65_535)
    """Port of a worker's ``/livez``, ``/readyz`` and ``/metrics``; none where unset."""

    health_host: str = "127.0.0.1"
    """Address that it listens on."""

    health_file: Path | None = None
    """File that a worker writes every few seconds while it is live; none where unset."""

    health_silent_s: float = Field(120, gt=0)
    """A worker that no receive has come back to for so long is not live."""

    emf: bool = False
    """Whether workers write CloudWatch's embedded metrics to standard output."""

    metrics_namespace: str = Field("CIS", min_length=1)
    """CloudWatch namespace of these metrics."""

    show_names: bool = False
    """Whether names of sessions may appear in dashboards and notifications, not only job ids."""

    tracing: bool = False
    """Whether publishers and workers take part in distributed traces (OpenTelemetry)."""

    topic_jobs: str = ""
    """ARN of the SNS topic that is told of jobs that ended; nobody is where unset."""

    topic_dead_letters: str = ""
    """ARN of the SNS topic that is told of jobs that were given up; nobody is where unset."""

    groups: str = ""
    """Names of the Auto Scaling groups, with commas; else those of
    ``CIS_SCALING_GROUP_<PIPELINE>``; else those tagged ``cis-pipeline``."""

    results_prefix: str = "celery/results/"
    """Where in the output bucket Celery keeps task states."""

    control_prefix: str = Field("cis-control-", pattern=r"^[A-Za-z0-9_-]{1,30}$")
    """Begins the names of control and reply queues and topics; one per installation."""

    max_attempts: int = Field(3, ge=1, le=100)
    """How often a job is run before its message is left to the dead-letter queue."""

    retry_backoff_s: float = Field(5, gt=0, le=900)
    """Wait before the second attempt; doubles with each further one, with jitter."""

    retry_backoff_max_s: float = Field(300, gt=0, le=43_200)
    """Longest wait between two attempts."""

    time_limit_s: int = Field(1_700, gt=0, le=43_200)
    """A job is stopped after this long."""

    poll_wait_s: int = Field(20, ge=1, le=20)
    """How long one receive waits for a job. A worker that ends waits for its last one."""

    beat_every_s: float = Field(60, ge=1)
    """How often ``celery beat`` publishes the backlog."""

    drain: Literal["off", "ec2"] = "off"
    """``ec2``: the worker watches its machine's metadata, and leaves in order (docs/scaling.md)."""

    drain_group: str = ""
    """The machine's Auto Scaling group; where empty, its metadata's tag says."""

    drain_grace_s: float | None = Field(None, gt=0, le=172_800)
    """How long a job may run on when its machine has to go; ``CIS_TIME_LIMIT_S`` where unset."""

    drain_poll_s: float = Field(5, gt=0, le=60)
    """How often the machine's metadata are asked; AWS gives notice two minutes ahead."""

    drain_hold_s: float = Field(20, ge=0, le=3_600)
    """How long a machine without a job stays protected from scale-in."""

    max_input_bytes: int = Field(16 << 30, ge=1)
    """Size of the largest input that a worker downloads; images have a lower limit of their own."""

    host_folder: Path | None = None
    """Folder of the machine's workers, gone after a boot; none where there is one worker."""

    host_worker: str = Field("", pattern=r"^[A-Za-z0-9_-]*$")
    """This worker's name among them."""

    host_workers: str = ""
    """Names of all workers that the machine is to have, with commas."""

    scratch: Path | None = None
    """Folder for a job's working files; the system's temporary folder where unset."""

    image_model: str = Field("efficientnet-lite0", min_length=1)
    """Model of the image pipeline where a job names none: a name, or a card's path or S3 URL."""

    image_runtime: Literal["auto", "torch", "onnx"] = "auto"
    """What runs it; ``auto``: torch on CUDA, onnxruntime on a CPU."""

    image_device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Where; ``auto`` and ``cuda`` are all GPUs of the machine."""

    image_batch: int = Field(32, ge=1, le=1024)
    """Most images that a GPU is given at once."""

    image_threads: int | None = Field(None, ge=1, le=1024)
    """Jobs at a time in a worker of the image pipeline; chosen by the device where unset."""

    image_cache: Path | None = None
    """Folder for models made or fetched once per machine; ``~/.cache/cis-tasks`` where unset."""

    @model_validator(mode="before")
    @classmethod
    def _gather_queue_urls(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = {
            pipeline.name: os.environ[pipeline.queue_variable]
            for pipeline in PIPELINES.values()
            if os.environ.get(pipeline.queue_variable)
        }
        return {**values, "queue_urls": {**given, **(values.get("queue_urls") or {})}}

    @field_validator("queue_urls")
    @classmethod
    def _check_queue_urls(cls, urls: dict[str, str]) -> dict[str, str]:
        for name, url in urls.items():
            if not url.startswith(("https://", "http://")) or not url.endswith(".fifo"):
                raise ValueError(
                    f"the queue URL of {name!r} is {url!r}; "
                    "it must be the https URL of a FIFO queue and end in .fifo"
                )
        return urls

    @field_validator("scratch")
    @classmethod
    def _check_scratch(cls, scratch: Path | None) -> Path | None:
        if scratch is not None and not (scratch.is_dir() and os.access(scratch, os.W_OK)):
            raise ValueError(f"{scratch} is not a folder that can be written to")
        return scratch


@functools.cache
def settings() -> Settings:
    """The process's settings, read once.

    Raises:
        SettingsError: an environment variable makes no sense; names each and why.
    """
    return read_settings()


def read_settings() -> Settings:
    """Read the environment anew.

    Raises:
        SettingsError: an environment variable makes no sense; names each and why.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"{_variable(problem['loc'])}: {problem['msg']} (it is {problem['input']!r})"
            for problem in error.errors()
        )
        raise SettingsError(f"The environment cannot be used: {problems}.") from error


def _variable(location: tuple[int | str, ...]) -> str:
    field = str(location[0]) if location else ""
    return "CIS_QUEUE_URL_<PIPELINE>" if field == "queue_urls" else f"CIS_{field.upper()}"
