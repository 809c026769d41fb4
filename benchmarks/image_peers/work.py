"""What a job is, for those who write their worker themselves: S3 in, a class, S3 out.

The decoder and the model are our own, so that all systems differ in nothing but how they carry a
job. An environment of another system finds what they need at BENCH_SITE, after its own packages.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import uuid
from functools import cache
from typing import Any

sys.path += [path for path in os.environ.get("BENCH_SITE", "").split(":") if path]

import boto3
from botocore.config import Config

BUCKET = os.environ["BENCH_BUCKET"]
_lock = threading.Lock()


@cache
def s3() -> Any:
    """One client for all threads."""
    return boto3.client("s3", config=Config(max_pool_connections=32))


@cache
def model() -> Any:
    """Our default model."""
    from cis_tasks.image.models import open_model  # noqa: PLC0415

    return open_model(device="cpu")


def ready() -> None:
    """Load the model before the first job."""
    with _lock:
        s3(), model()


def classify(key: str) -> None:
    """One job: each leaves an object of its own, so that repetitions are seen."""
    ready()
    body = s3().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    answer = json.dumps(look_at(body)).encode()
    s3().put_object(Bucket=BUCKET, Key=f"out/{key}/{uuid.uuid4()}", Body=answer)


def look_at(body: bytes) -> list[dict[str, Any]]:
    """The decoder and the model alone."""
    from cis_tasks.image.classification import best  # noqa: PLC0415
    from cis_tasks.image.decode import decode  # noqa: PLC0415
    from cis_tasks.image.frame import frame, least_sides  # noqa: PLC0415

    bundle = model().bundle
    preprocess = bundle.card.preprocess
    picture = decode(body, "image", least_sides(preprocess))
    [scores] = model().score([frame(picture.pixels, preprocess)])
    return [guess.to_dict() for guess in best(scores, bundle.labels, 5)]


def upload(count: int) -> list[str]:
    """Put so many images; their keys."""
    with open(os.environ["BENCH_IMAGE"], "rb") as file:  # noqa: PTH123
        body = file.read()
    keys = [f"images/{index}.jpg" for index in range(count)]
    for key in keys:
        s3().put_object(Bucket=BUCKET, Key=key, Body=body)
    return keys
