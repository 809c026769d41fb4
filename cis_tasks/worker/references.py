"""What names a model: by name, as a file, or in S3; and what fetches those in S3."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.errors import PermanentError, TransientError
from cis_tasks.image.card import MAX_CARD_BYTES, read_card, require_sha256
from cis_tasks.image.efficientnet import SIDES
from cis_tasks.image.models import MAX_LABEL_BYTES, Bundle, built_in, bundle, read_bundle
from cis_tasks.storage import parse_url

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MAX_MODEL_BYTES = 4 << 30
PINNED = re.compile(r"(?P<url>s3://[^#]+)#sha256=(?P<sha256>[0-9a-f]{64})")


def is_pinned(reference: str) -> bool:
    """Whether a reference says by a checksum which card it means."""
    return PINNED.fullmatch(reference) is not None


def find_bundle(reference: str, cache: Path) -> Bundle:
    """The model that a reference names, checked.

    Args:
        reference: the name of a model that ships with us, the path of a card, or its
            ``s3://bucket/key``, with ``#sha256=…`` where the very card matters.
        cache: folder for files that came from S3.

    Raises:
        PermanentError: there is no such model, or a file of it is not what its card says.
        TransientError: S3 did not answer.
    """
    if reference in SIDES:
        return built_in(reference)
    if not reference.startswith("s3://"):
        return read_bundle(Path(reference))
    from cis_tasks import aws  # noqa: PLC0415  models on disk need no AWS

    return _from_s3(aws.s3(), reference, cache)


def _from_s3(s3: S3Client, reference: str, cache: Path) -> Bundle:
    pinned = PINNED.fullmatch(reference)
    url = pinned["url"] if pinned else reference
    bucket, key = parse_url(url)
    data = _read(s3, bucket, key, MAX_CARD_BYTES)
    if pinned:
        require_sha256(data, pinned["sha256"], url)
    card = read_card(data, key)
    labels = b""
    if isinstance(card.labels, str):
        labels = _read(s3, bucket, _beside(key, card.labels), MAX_LABEL_BYTES)
    kept = cache / "models" / card.sha256
    file = _kept(kept, card.sha256)
    if file is None:
        file = _read(s3, bucket, _beside(key, card.file), MAX_MODEL_BYTES)
        require_sha256(file, card.sha256, card.file)
        _keep(kept, file)
    return bundle(card, file, labels)


def _beside(key: str, name: str) -> str:
    return posixpath.join(posixpath.dirname(key), name)


def _read(s3: S3Client, bucket: str, key: str, limit: int) -> bytes:
    url = f"s3://{bucket}/{key}"
    try:
        answer = s3.get_object(Bucket=bucket, Key=key)
        if answer["ContentLength"] > limit:
            raise PermanentError(
                "model_too_large", f"{url} has more than {limit >> 20} MiB.", "Is it the right one?"
            )
        return answer["Body"].read()
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in {403, 404}:
            raise PermanentError(
                "model_missing",
                f"{url} is not there, or the worker may not read it.",
                "Put the card and the files that it names into the input bucket.",
            ) from error
        raise TransientError("s3_unavailable", f"Could not read {url}: {error}.") from error
    except (BotoCoreError, OSError) as error:
        raise TransientError("s3_unavailable", f"Could not read {url}: {error}.") from error


def _kept(path: Path, sha256: str) -> bytes | None:
    """A file that came before; None where there is none or it is damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def _keep(path: Path, data: bytes) -> None:
    """Put a file into the cache in one step, whoever else does the same."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
