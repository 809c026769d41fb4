"""What a machine fetches when it boots: the code, its pins and the scripts that install it."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cis_tasks.deployment.requirements import requirements
from cis_tasks.errors import SettingsError

PACKAGES = ("cis_tasks", "lambda_trigger", "scaling")
FILES = ("celeryconfig.py", "constraints.txt", "deploy/cis-worker", "deploy/user-data.sh")
PARTS = ("worker", "web")
WHEEL = re.compile(r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>[^-]+)(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl")


@dataclass(frozen=True)
class Bundle:
    """A tar, ready to be uploaded.

    Attributes:
        key: where it belongs in the code bucket; holds the SHA-256 of its bytes.
        data: its bytes.
    """

    key: str
    data: bytes


def checkout() -> Path:
    """The folder that the product's sources lie in.

    Raises:
        SettingsError: it is installed without its sources.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "deploy" / "user-data.sh").is_file():
        raise SettingsError("cis deploy needs the product's checkout: run it from there.")
    return root


def bundle(root: Path, wheels: Path | None = None) -> Bundle:
    """The code as machines get it; the same sources give the same bytes.

    Args:
        root: the checkout.
        wheels: folder of the packages that machines install; their checksums go into it.

    Raises:
        SettingsError: ``wheels`` holds none, or something else besides.
    """
    made = {
        f"requirements-{part}.txt": "\n".join([*requirements(root / "pyproject.toml", part), ""])
        for part in PARTS
    }
    if wheels is not None:
        made["requirements.lock"] = lock(wheels)
    files = {name: text.encode() for name, text in made.items()}
    for path in _sources(root):
        files[path.relative_to(root).as_posix()] = path.read_bytes()
    data = gzip.compress(_tar(files, root), mtime=0)
    return Bundle(f"worker/{hashlib.sha256(data).hexdigest()}.tar.gz", data)


def lock(wheels: Path) -> str:
    """One line for each wheel in the folder, as ``pip --require-hashes`` wants them.

    Raises:
        SettingsError: there are none, or something else besides.
    """
    lines = []
    for path in sorted(wheels.iterdir()):
        match = WHEEL.fullmatch(path.name)
        if match is None:
            raise SettingsError(f"{path} is no wheel; the folder may hold nothing else.")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = match["name"].replace("_", "-").lower()
        lines.append(f"{name}=={match['version']} --hash=sha256:{digest}\n")
    if not lines:
        raise SettingsError(f"There is no wheel in {wheels}; fill it with pip download.")
    return "".join(lines)


def tar_of_wheels(wheels: Path, to: Path) -> str:
    """Write all of the folder into one tar and give its key in the code bucket."""
    with tarfile.open(to, "w") as archive:
        for path in sorted(wheels.iterdir()):
            archive.add(path, path.name, filter=_anonymous)
    with to.open("rb") as file:
        return f"worker/wheels-{hashlib.file_digest(file, 'sha256').hexdigest()}.tar"


def _sources(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path
    yield from (root / name for name in FILES)
    yield from sorted((root / "deploy" / "units").iterdir())


def _tar(files: Mapping[str, bytes], root: Path) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            source = root / name
            entry.mode = 0o755 if source.is_file() and source.stat().st_mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    return written.getvalue()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry
