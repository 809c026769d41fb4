"""The templates, in the order in which they build on each other, and what goes into them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from cis_tasks.deployment import bundle
from cis_tasks.deployment.stacks import Stacks
from cis_tasks.errors import SettingsError
from cis_tasks.local.stack import Deployer


@dataclass(frozen=True)
class Part:
    """One template.

    Attributes:
        name: what ``cis deploy`` calls it.
        file: its file in deploy/.
        suffix: what its stack's name ends in, after the common one.
        code: whether it needs the Lambdas' and machines' code.
    """

    name: str
    file: str
    suffix: str
    code: bool = False


PARTS: Mapping[str, Part] = {
    part.name: part
    for part in (
        Part("keys", "keys.yaml", "-keys"),
        Part("network", "network.yaml", "-network"),
        Part("app", "template.yaml", "", code=True),
        Part("monitoring", "monitoring.yaml", "-monitoring"),
        Part("web", "web.yaml", "-web", code=True),
        Part("image", "image.yaml", "-image", code=True),
    )
}
"""In their order: outputs of earlier ones are parameters of later ones, by name."""


def chosen(names: Iterable[str]) -> list[Part]:
    """The parts of these names, in their order.

    Raises:
        SettingsError: there is no such part.
    """
    wanted = set(names)
    if unknown := wanted - set(PARTS):
        raise SettingsError(f"There is no part {unknown.pop()!r}; there are {', '.join(PARTS)}.")
    return [part for part in PARTS.values() if part.name in wanted]


def upload(code_bucket: str, wheels: Path | None) -> dict[str, str]:
    """Upload all code, named by its checksums; gives the parameters that say where it is.

    Raises:
        SettingsError: there is no checkout, or ``wheels`` is not a folder of wheels.
    """
    built = bundle.bundle(bundle.checkout(), wheels)
    where = Deployer().upload_code(code_bucket)
    s3: Any = boto3.client("s3")
    s3.put_object(Bucket=code_bucket, Key=built.key, Body=built.data)
    where["WorkerCodeKey"] = built.key
    if wheels is not None:
        with tempfile.TemporaryDirectory() as folder:
            tar = Path(folder) / "wheels.tar"
            where["WheelsKey"] = bundle.tar_of_wheels(wheels, tar)
            s3.upload_file(str(tar), code_bucket, where["WheelsKey"])
    return where


def gathered(stacks: Stacks, prefix: str, part: Part) -> dict[str, str]:
    """The names and outputs of the stacks that ``part`` builds on, as far as they stand."""
    names: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for other in PARTS.values():
        if other.name == part.name:
            break
        names.update(stacks.names(prefix + other.suffix))
        outputs.update(stacks.outputs(prefix + other.suffix))
    return {**names, **outputs}
