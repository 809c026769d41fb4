"""The registry: every pipeline, its inputs and its queue. A new pipeline is added here alone."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, cast

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job, Run


@dataclass(frozen=True)
class Role:
    """One part that an input object can play in a job.

    Attributes:
        name: the role's name, which is also the keyword of the Celery task.
        prefix: where in the input bucket its objects lie; ends in ``/``.
        suffixes: accepted file endings, lower case; matched in any case.
        required: whether a job needs it.
        default_key: object that serves where a job has none of its own; optional roles only.
        max_bytes: size of the largest object that it takes; None where that is the worker's to say.
    """

    name: str
    prefix: str
    suffixes: tuple[str, ...]
    required: bool = True
    default_key: str | None = None
    max_bytes: int | None = None

    def name_in(self, key: str) -> str | None:
        """The job name that ``key`` belongs to in this role, or None where it is not of it.

        Folders below the prefix are part of the name: ``sensor_data/lab/a.csv`` is ``lab/a``.
        """
        if not key.startswith(self.prefix):
            return None
        rest = key[len(self.prefix) :]
        for suffix in self.suffixes:
            if rest.lower().endswith(suffix):
                name = rest[: -len(suffix)]
                return name if is_name(name) else None
        return None

    def key_for(self, name: str, suffix: str) -> str:
        """The key under which a file with ending ``suffix`` plays this role for ``name``."""
        return f"{self.prefix}{name}{suffix}"


@dataclass(frozen=True)
class Pipeline:
    """One kind of job.

    Attributes:
        name: the first part of every output key.
        version: part of every job's identity: a new version runs old inputs anew.
        task: name of the Celery task.
        queue: default name of its SQS FIFO queue.
        roles: what it takes.
        group: jobs of one ``name`` run one after the other, or each ``job`` is free of all others.
        entry: ``module:function`` of the code that runs it, a `cis_tasks.jobs.Run`.
        brief: whether a run takes no longer than a few calls of S3. Then nothing is told between
            the publishing and the end, and a first attempt on a message that has hardly waited does
            not look whether the job has ended: it may run in vain, and the manifest still counts
            once.
        pool: whether a worker does one job at a time in a process of its own, or many in threads.
    """

    name: str
    version: str
    task: str
    queue: str
    roles: tuple[Role, ...]
    group: Literal["name", "job"]
    entry: str
    brief: bool = False
    pool: Literal["process", "threads"] = "process"

    @property
    def queue_variable(self) -> str:
        """The environment variable that holds the URL of the pipeline's queue."""
        return f"CIS_QUEUE_URL_{self.name.upper()}"

    def role(self, name: str) -> Role:
        """The role called ``name``.

        Raises:
            PermanentError: there is none.
        """
        for role in self.roles:
            if role.name == name:
                return role
        raise PermanentError(
            "role_unknown",
            f"The pipeline {self.name!r} takes no input called {name!r}.",
            f"It takes {', '.join(role.name for role in self.roles)}.",
        )

    def place(self, key: str) -> tuple[Role, str] | None:
        """The role that ``key`` plays here and the name of its job, or None."""
        for role in self.roles:
            name = role.name_in(key)
            if name is not None:
                return role, name
        return None

    def group_of(self, job: Job) -> str:
        """The SQS message group of ``job``."""
        return job.name if self.group == "name" else job.id

    def load(self) -> Run:
        """Import the code that runs the pipeline; its libraries come with it."""
        module, _, function = self.entry.partition(":")
        return cast("Run", getattr(importlib.import_module(module), function))


PIPELINES: Mapping[str, Pipeline] = MappingProxyType(
    {
        pipeline.name: pipeline
        for pipeline in (
            Pipeline(
                name="spine",
                version="1",
                task="cis_tasks.calibrate_spine",
                queue="CIS_Data_load_in_fifo.fifo",
                roles=(
                    Role(
                        "sensor_data",
                        "sensor_data/",
                        (".csv", ".tsv", ".txt", ".parquet", ".zip"),
                    ),
                    Role(
                        "video_footage",
                        "video_footage/",
                        (".mp4", ".mov", ".mkv", ".avi", ".m4v", ".webm"),
                    ),
                    Role(
                        "rig",
                        "sensor_data/",
                        (".json",),
                        required=False,
                        default_key="rigs/default.json",
                    ),
                ),
                group="name",
                entry="cis_tasks.spine.pipeline:run",
            ),
            Pipeline(
                name="image",
                version="1",
                task="cis_tasks.classify_image",
                queue="CIS_Image_requests.fifo",
                roles=(
                    Role(
                        "image",
                        "images/",
                        (
                            *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"),
                            *(".tif", ".tiff", ".avif", ".jfif", ".ppm", ".pgm"),
                        ),
                        max_bytes=128 << 20,  # it is decoded in memory
                    ),
                ),
                group="job",
                entry="cis_tasks.worker.images:run",
                brief=True,
                pool="threads",
            ),
        )
    }
)


def find(name: str) -> Pipeline:
    """The pipeline called ``name``.

    Raises:
        PermanentError: there is none.
    """
    try:
        return PIPELINES[name]
    except KeyError:
        raise PermanentError(
            "pipeline_unknown",
            f"There is no pipeline called {name!r}.",
            f"There are: {', '.join(PIPELINES)}.",
        ) from None


def place(key: str) -> tuple[Pipeline, Role, str] | None:
    """The pipeline and role that an input key belongs to and its job's name, or None."""
    for pipeline in PIPELINES.values():
        found = pipeline.place(key)
        if found is not None:
            return pipeline, *found
    return None


def is_name(name: str) -> bool:
    """Whether ``name`` can name a job: path segments that are neither empty nor dots."""
    return all(part.strip() not in {"", ".", ".."} for part in name.split("/"))
