"""``cis demo image``: photographs uploaded to the laptop cloud, and what a worker saw on them."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from cis_tasks import aws
from cis_tasks.console import console
from cis_tasks.errors import CisError
from cis_tasks.jobs import Job
from cis_tasks.join import find_job
from cis_tasks.local.cloud import Cloud, start
from cis_tasks.manifest import Manifest
from cis_tasks.pipelines import find
from cis_tasks.settings import settings
from cis_tasks.storage import read_manifest

TIMEOUT_S = 120.0
LOOK_S = 0.1
PHOTOGRAPHS = {
    "skimage": (
        "data",
        ("chelsea.png", "coffee.png", "camera.png", "motorcycle_left.png", "rocket.jpg"),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}
"""Package → folder in it, and its photographs of things that ImageNet knows."""


def run(state: Path, photographs: Sequence[Path] = ()) -> bool:
    """Upload photographs, wait for their answers, and show them.

    Args:
        state: folder for the cloud's logs.
        photographs: which; those that ship in scikit-image and scikit-learn if empty.

    Returns:
        Whether all were classified.

    Raises:
        CisError: there are none, or a part could not be started.
    """
    files = [*photographs] or installed()
    console.rule("1  The laptop cloud: embedded AWS, the stack, a worker with its model")
    with start(state=state / "cloud", workers=0, tell=_tell) as cloud:
        os.environ.update(cloud.environment)
        settings.cache_clear()
        cloud.add_workers(1, "image")
        console.rule("2  Uploads; everything after them happens by itself")
        started = time.monotonic()
        jobs = [_upload(file, cloud) for file in files]
        ended = [_await(job) for job in jobs]
        took_s = time.monotonic() - started
        console.rule("3  The answers")
        console.print(_table(files, ended))
        console.print(f"{len(files)} photographs in {took_s:.1f} s", highlight=False)
        console.print(f"\nmanifest  {ended[-1].url}", highlight=False, soft_wrap=True)
    return all(manifest.status == "succeeded" for manifest in ended)


def installed() -> list[Path]:
    """The photographs that are there.

    Raises:
        CisError: none is.
    """
    found = []
    for package, (folder, names) in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            found += [path for name in names if (path := Path(place, folder, name)).exists()]
    if not found:
        raise CisError(
            "There are no photographs here: name some files, or pip install scikit-image."
        )
    return found


def _tell(text: str) -> None:
    console.print(f"[dim]{escape(text)}[/]", highlight=False, soft_wrap=True)


def _upload(file: Path, cloud: Cloud) -> Job:
    """Upload one file; the job that its event will make."""
    bucket, key = cloud.stack.input_bucket, f"images/{file.name}"
    console.print(f"{escape(file.name)} → s3://{bucket}/{key}", highlight=False, soft_wrap=True)
    aws.s3().put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
    image = find("image")
    placed = image.place(key)
    job = find_job(aws.s3(), bucket, image, placed[1]) if placed else None
    if not isinstance(job, Job):
        raise CisError(f"{file} is no file that the image pipeline takes.")
    return job


def _await(job: Job) -> Manifest:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        manifest = read_manifest(aws.s3(), settings().output_bucket, job)
        if manifest is not None:
            return manifest
        time.sleep(LOOK_S)
    raise CisError(f"The job {job.id} of {job.name} did not end within {TIMEOUT_S:.0f} s.")


def _table(files: Sequence[Path], ended: Sequence[Manifest]) -> Table:
    table = Table(
        *("photograph", "class", "", "index", "WordNet", "or", "ms"), box=None, header_style="dim"
    )
    for file, manifest in zip(files, ended, strict=True):
        if manifest.error is not None:
            table.add_row(escape(file.name), f"[red]{escape(manifest.error.message)}[/]")
            continue
        best, *others = manifest.result["top"]
        table.add_row(
            escape(file.name),
            escape(best["label"]),
            f"{best['probability']:.2f}",
            str(best["index"]),
            best["wordnet_id"] or "",
            escape(", ".join(f"{one['label']} {one['probability']:.2f}" for one in others[:2])),
            f"{1e3 * sum(manifest.timings_s.values()):.0f}",
        )
    return table
