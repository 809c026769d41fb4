"""What a job is: its inputs, its identity, the keys of its outputs, and what running it gives."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from cis_tasks.errors import PermanentError

MANIFEST = "manifest.json"
LATEST = "latest.json"


@dataclass(frozen=True, order=True)
class ObjectRef:
    """One version of one S3 object.

    Attributes:
        bucket: bucket name.
        key: object key, decoded.
        version: the version id where the bucket keeps versions, else the ETag without quotes.
        versioned: whether ``version`` is a version id.
    """

    bucket: str
    key: str
    version: str
    versioned: bool = False

    @property
    def url(self) -> str:
        """The object's ``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"

    def to_dict(self) -> dict[str, Any]:
        """The form that travels in messages and manifests."""
        kind = "version_id" if self.versioned else "etag"
        return {"bucket": self.bucket, "key": self.key, kind: self.version}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ObjectRef:
        """Read what ``to_dict`` wrote; ``KeyError`` or ``TypeError`` where it is something else."""
        versioned = "version_id" in data
        version = data["version_id"] if versioned else data["etag"]
        fields = (data["bucket"], data["key"], version)
        if not all(isinstance(value, str) and value for value in fields):
            raise TypeError("bucket, key and version must be text")
        return cls(*fields, versioned=versioned)


@dataclass(frozen=True)
class Job:
    """One piece of work: which pipeline, on which versions of which objects, how.

    Attributes:
        pipeline: name in the registry.
        pipeline_version: version of the pipeline that the job asks for.
        name: what people call it: the session or image name, from the input keys.
        inputs: role → object.
        params: the caller's parameters; JSON values only.
        nonce: empty, or random text that makes a repetition of the same inputs a job of its own.
        reply_to: the reply queue of whoever waits for it; no part of what the job is.
    """

    pipeline: str
    pipeline_version: str
    name: str
    inputs: Mapping[str, ObjectRef]
    params: Mapping[str, Any] = field(default_factory=dict)
    nonce: str = ""
    reply_to: str = field(default="", compare=False)

    @cached_property
    def id(self) -> str:
        """SHA-256 over the canonical JSON of what the job is, cut to 128 bits, as a UUID.

        It is also the Celery task id, the S3 path and what Flower shows.
        """
        identity: dict[str, Any] = {
            "pipeline": self.pipeline,
            "version": self.pipeline_version,
            "params": dict(self.params),
            "inputs": {
                role: [ref.bucket, ref.key, ref.version] for role, ref in self.inputs.items()
            },
        }
        if self.nonce:
            identity["nonce"] = self.nonce
        digest = hashlib.sha256(canonical_json(identity).encode()).digest()
        return str(uuid.UUID(bytes=digest[:16]))

    @property
    def prefix(self) -> str:
        """Key prefix of the job's outputs, ending in ``/``."""
        return f"{self.pipeline}/{self.name}/{self.id}/"

    @property
    def manifest_key(self) -> str:
        """Key of the job's manifest; it exists exactly when the job has ended."""
        return self.prefix + MANIFEST

    @property
    def latest_key(self) -> str:
        """Key of the pointer to the newest job of the same name."""
        return f"{self.pipeline}/{self.name}/{LATEST}"

    def to_dict(self) -> dict[str, Any]:
        """The form that travels in messages and manifests."""
        data: dict[str, Any] = {
            "pipeline": self.pipeline,
            "version": self.pipeline_version,
            "name": self.name,
            "inputs": {role: ref.to_dict() for role, ref in sorted(self.inputs.items())},
            "params": dict(self.params),
        }
        if self.nonce:
            data["nonce"] = self.nonce
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Job:
        """Read what ``to_dict`` wrote.

        Raises:
            PermanentError: ``data`` does not describe a job.
        """
        try:
            return cls(
                pipeline=str(data["pipeline"]),
                pipeline_version=str(data["version"]),
                name=str(data["name"]),
                inputs={
                    str(role): ObjectRef.from_dict(ref) for role, ref in data["inputs"].items()
                },
                params=dict(data.get("params") or {}),
                nonce=str(data.get("nonce", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PermanentError(
                "job_malformed",
                f"The message does not describe a job: {error!r}.",
                "Publish jobs through cis_tasks or the Lambda, not by hand.",
            ) from error


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal text.

    Raises:
        PermanentError: ``value`` holds something that JSON cannot.
    """
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise PermanentError(
            "params_not_json",
            f"The job's parameters cannot be written as JSON: {error}.",
            "Use text, numbers, booleans, lists and dicts only.",
        ) from error


class Progress(Protocol):
    """Called by a pipeline as it goes."""

    def __call__(self, stage: str, fraction: float = 0.0) -> None:
        """Report that ``stage`` has come as far as ``fraction``, from 0 to 1."""


def no_progress(stage: str, fraction: float = 0.0) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Outcome:
    """What one run of a pipeline gives.

    Attributes:
        summary: the answer in a few JSON values, for ``get()``, the manifest and the terminal.
        files: the files to keep, all inside the output folder handed to the run.
        model: name of the model that was used.
        model_version: its version.
    """

    summary: Mapping[str, Any]
    files: Sequence[Path]
    model: str
    model_version: str


class Run(Protocol):
    """A pipeline's entry: local files in, local files out; no AWS and no Celery."""

    def __call__(
        self,
        inputs: Mapping[str, Path],
        out: Path,
        params: Mapping[str, Any],
        progress: Progress = no_progress,
    ) -> Outcome:
        """Run the model on ``inputs`` (role → file) and write its files into ``out``.

        Raises:
            PermanentError: the input is bad.
            TransientError: the same call may succeed later.
        """
