"""S3 in and out: inputs by exact version, outputs with checksums, the manifest once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.errors import PermanentError, TransientError
from cis_tasks.jobs import Job, ObjectRef
from cis_tasks.manifest import Manifest, Output

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

SMALL_BYTES = 1 << 20  # read at once; larger files are streamed
CONTENT_TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".txt": "text/plain; charset=utf-8",
}


def parse_url(url: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://bucket/key`` URL.

    Raises:
        PermanentError: it is not one.
    """
    parts = urlsplit(url, allow_fragments=False)
    key = url.split("/", 3)[3] if url.count("/") >= 3 else ""  # "?" and "%" are part of a key
    if parts.scheme != "s3" or not parts.netloc or not key:
        raise PermanentError(
            "url_malformed", f"{url!r} does not name an S3 object.", "Write s3://bucket/key."
        )
    return parts.netloc, key


def fetch(s3: S3Client, ref: ObjectRef, path: Path, *, max_bytes: int | None = None) -> datetime:
    """Download the very version that ``ref`` names into ``path``.

    Args:
        s3: client.
        ref: what to download.
        path: where to.
        max_bytes: of a larger object nothing but its size is read.

    Returns:
        When that version was uploaded.

    Raises:
        PermanentError: the object is gone, too large, or another version took its place.
        TransientError: S3 did not answer.
    """
    exact = {"VersionId": ref.version} if ref.versioned else {"IfMatch": f'"{ref.version}"'}
    with _explained(f"read {ref.url}", {404: _gone(ref), 405: _gone(ref), 412: _replaced(ref)}):
        answer = s3.get_object(Bucket=ref.bucket, Key=ref.key, **exact)  # type: ignore[arg-type]
        if max_bytes is not None and answer["ContentLength"] > max_bytes:
            answer["Body"].close()  # the connection too: else all of it would come
            raise _too_large(ref, answer["ContentLength"], max_bytes)
        with path.open("wb") as file:
            for block in answer["Body"].iter_chunks(1 << 20):
                file.write(block)
        return answer["LastModified"]


def store(
    s3: S3Client, bucket: str, job: Job, folder: Path, files: Iterable[Path]
) -> dict[str, Output]:
    """Upload a job's files under its prefix.

    Args:
        s3: client.
        bucket: output bucket.
        job: whose files they are.
        folder: the folder that their names are relative to.
        files: paths inside ``folder``.

    Returns:
        File name → what was written.

    Raises:
        TransientError: S3 did not take a file.
    """
    return {
        path.relative_to(folder).as_posix(): _store_file(
            s3, bucket, job.prefix + path.relative_to(folder).as_posix(), path
        )
        for path in files
    }


def retrieve(s3: S3Client, manifest: Manifest, folder: Path) -> list[Path]:
    """Download all files of a job, and check each against its checksum.

    Args:
        s3: client.
        manifest: the job's manifest.
        folder: where to; made where it does not exist.

    Raises:
        PermanentError: a file is gone or its bytes are not those that the job wrote.
        TransientError: S3 did not answer.
    """
    paths = []
    for name, output in manifest.outputs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        versioned = output.version_id is not None
        version = {"VersionId": output.version_id} if versioned else {}
        gone = PermanentError(
            "output_gone", f"s3://{manifest.bucket}/{output.key} is no longer there.", ""
        )
        with _explained(f"read s3://{manifest.bucket}/{output.key}", {404: gone}):
            answer = s3.get_object(Bucket=manifest.bucket, Key=output.key, **version)  # type: ignore[arg-type]
            body = answer["Body"].read()
        if hashlib.sha256(body).hexdigest() != output.sha256:
            raise PermanentError(
                "output_changed",
                f"s3://{manifest.bucket}/{output.key} is not what job {manifest.job_id} wrote.",
                "Submit the job anew with force.",
            )
        path.write_bytes(body)
        paths.append(path)
    return paths


def write_manifest(s3: S3Client, bucket: str, job: Job, manifest: Manifest) -> bool:
    """Write the job's manifest unless there is one; whoever writes it owns the effect.

    Returns:
        Whether this call wrote it.

    Raises:
        TransientError: S3 did not answer.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
    """
    body = manifest.model_dump_json(indent=2).encode()
    return _put_if(s3, bucket, job.manifest_key, body, {"IfNoneMatch": "*"})


def read_manifest(s3: S3Client, bucket: str, job: Job) -> Manifest | None:
    """The job's manifest, or None while the job has not ended.

    Raises:
        TransientError: S3 did not answer.
    """
    found = _read(s3, bucket, job.manifest_key)
    return Manifest.model_validate_json(found[0]) if found else None


def point_latest(s3: S3Client, bucket: str, job: Job, manifest: Manifest) -> bool:
    """Let ``latest.json`` point at the job, unless it points at one with newer inputs.

    Returns:
        Whether it now points at this job.

    Raises:
        TransientError: S3 did not answer, or others kept changing the pointer.
    """
    mine = _age(manifest.inputs_at, manifest.started_at)
    body = json.dumps(
        {
            "job_id": manifest.job_id,
            "status": manifest.status,
            "manifest": job.manifest_key,
            "inputs_at": mine[0],
            "started_at": mine[1],
        },
        indent=2,
    ).encode()
    condition = {"IfNoneMatch": "*"}  # most names are new: no look before the first write
    for _ in range(10):
        if _put_if(s3, bucket, job.latest_key, body, condition):
            return True
        found = _read(s3, bucket, job.latest_key)
        if found:
            other = json.loads(found[0])
            if (other["inputs_at"], other["started_at"]) > mine:
                return False
        condition = {"IfMatch": found[1]} if found else {"IfNoneMatch": "*"}
    raise TransientError("latest_contended", f"s3://{bucket}/{job.latest_key} kept changing.")


def _age(inputs_at: datetime | None, started_at: datetime) -> tuple[str, str]:
    return (inputs_at or started_at).isoformat(), started_at.isoformat()


def _store_file(s3: S3Client, bucket: str, key: str, path: Path) -> Output:
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        with _explained(f"write s3://{bucket}/{key}"):
            answer = s3.put_object(
                Bucket=bucket,
                Key=key,
                Body=file.read() if size <= SMALL_BYTES else file,
                ContentType=CONTENT_TYPES.get(path.suffix, "application/octet-stream"),
            )
    version = answer.get("VersionId")
    return Output(
        key=key,
        size=size,
        sha256=sha256,
        version_id=version if version != "null" else None,
    )


def _put_if(s3: S3Client, bucket: str, key: str, body: bytes, condition: dict[str, str]) -> bool:
    """PUT on a condition; False where it does not hold (412) or others write just now (409)."""
    try:
        with _explained(f"write s3://{bucket}/{key}", {412: None, 409: None}):
            s3.put_object(
                Bucket=bucket,
                Key=key,
                Body=body,
                ContentType="application/json",
                **condition,  # type: ignore[arg-type]
            )
    except ClientError:
        return False
    return True


def _read(s3: S3Client, bucket: str, key: str) -> tuple[bytes, str] | None:
    """An object's bytes and ETag, or None where there is none."""
    try:
        with _explained(f"read s3://{bucket}/{key}", {404: None}):
            answer = s3.get_object(Bucket=bucket, Key=key)
            return answer["Body"].read(), answer["ETag"]
    except ClientError:
        return None


@contextmanager
def _explained(doing: str, known: dict[int, PermanentError | None] | None = None) -> Iterator[None]:
    """Turn S3's refusals into our errors.

    Args:
        doing: what was being done.
        known: HTTP status → error to raise in place; None lets botocore's own through.
    """
    try:
        yield
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if known and status in known:
            ours = known[status]
            if ours is None:
                raise
            raise ours from error
        raise _unavailable(doing, error) from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        raise _unavailable(doing, error) from error


def _unavailable(doing: str, error: Exception) -> TransientError:
    return TransientError("s3_unavailable", f"Could not {doing}: {error}.")


def _gone(ref: ObjectRef) -> PermanentError:
    return PermanentError(
        "input_gone", f"The input {ref.url} is no longer there.", "Upload it again."
    )


def _too_large(ref: ObjectRef, size: int, limit: int) -> PermanentError:
    return PermanentError(
        "input_too_large",
        f"The input {ref.url} has {size:,} bytes; at most {limit:,} are taken.",
        "Upload a smaller one; for sessions, workers' CIS_MAX_INPUT_BYTES is the limit.",
    )


def _replaced(ref: ObjectRef) -> PermanentError:
    return PermanentError(
        "input_replaced",
        f"The input {ref.url} was replaced after this job was published.",
        "Its newer version made a job of its own; look at latest.json.",
    )
