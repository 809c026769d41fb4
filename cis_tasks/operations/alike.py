"""Names that end as a given one does: what the web tier sends gets a folder of its own before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cis_tasks import aws
from cis_tasks.jobs import LATEST
from cis_tasks.lookup import JOB_ID
from cis_tasks.operations.asking import asking
from cis_tasks.pipelines import PIPELINES
from cis_tasks.settings import settings

MAX_PAGES = 20  # of 1000 keys, below each prefix
MAX_NAMES = 50


@dataclass(frozen=True)
class Alike:
    """Names that end as one does.

    Attributes:
        names: of sessions and images, in the order of the alphabet.
        complete: whether these are all: every key was looked at, and every name is given.
    """

    names: tuple[str, ...]
    complete: bool


def alike(name: str) -> Alike:
    """Names of kept sessions and images that end in ``/name``, among a bounded number of keys.

    Raises:
        TransientError: AWS did not answer.
    """
    inputs = {role.prefix for pipeline in PIPELINES.values() for role in pipeline.roles}
    outputs = {f"{pipeline}/" for pipeline in PIPELINES}
    found, complete = set[str](), True
    with asking(f"look for names that end in /{name}"):
        for bucket, prefixes in (
            (settings().input_bucket, inputs),
            (settings().output_bucket, outputs),
        ):
            for prefix in sorted(prefixes):
                listing = _Listing(bucket, prefix)
                for key in listing.read():
                    found |= {each for each in _names_in(key) if each.endswith(f"/{name}")}
                complete &= listing.complete
    return Alike(tuple(sorted(found)[:MAX_NAMES]), complete and len(found) <= MAX_NAMES)


class _Listing:
    """Keys below a prefix, of old versions and delete markers too, a bounded number of pages."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix
        self.complete = True

    def read(self) -> Iterator[str]:
        """The keys; `complete` says afterwards whether they are all."""
        pages = aws.s3().get_paginator("list_object_versions")
        for number, page in enumerate(pages.paginate(Bucket=self._bucket, Prefix=self._prefix), 1):
            yield from (version["Key"] for version in page.get("Versions", []))
            yield from (marker["Key"] for marker in page.get("DeleteMarkers", []))
            if number == MAX_PAGES:
                self.complete = not page.get("IsTruncated", False)
                return


def _names_in(key: str) -> Iterator[str]:
    """The names that a key of an input or an output may belong to."""
    for pipeline in PIPELINES.values():
        placed = pipeline.place(key)
        if placed is not None:
            yield placed[1]
        elif key.startswith(f"{pipeline.name}/"):
            yield _name_of_output(key.removeprefix(f"{pipeline.name}/"))


def _name_of_output(rest: str) -> str:
    """The name in an output's key without its pipeline: all before the job's id or the pointer."""
    parts = rest.split("/")
    ends = (i for i, part in enumerate(parts) if part == LATEST or JOB_ID.fullmatch(part))
    return "/".join(parts[: next(ends, 0)])
