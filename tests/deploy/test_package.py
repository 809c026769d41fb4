"""The Lambda's zip."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import boto3
import pytest

import lambda_trigger
from lambda_trigger import package

# Modules that the Lambda runtime has besides the standard library; boto3 needs the others.
RUNTIME = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six.py")


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of our sources whose files a test may change."""
    root = Path(lambda_trigger.__file__).parents[1]
    for name in ("cis_tasks", "lambda_trigger"):
        shutil.copytree(
            root / name, tmp_path / "src" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path / "src"


def build_in(checkout: Path, to: Path, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
    """Build the zip from a copy, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lambda_trigger.package", str(to)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )


def test_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = package.build(tmp_path / "1.zip"), package.build(tmp_path / "2.zip")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256 == hashlib.sha256(second.path.read_bytes()).hexdigest()
    assert first.size == first.path.stat().st_size


def test_times_and_permissions_of_the_sources_do_not_matter(checkout: Path, tmp_path: Path) -> None:
    here = package.build(tmp_path / "here.zip")
    for number, file in enumerate(sorted(checkout.rglob("*.py"))):
        file.chmod(0o600)
        os.utime(file, (10**9 + number, 10**9 + number))
    assert build_in(checkout, tmp_path / "there.zip", umask=0o077).returncode == 0
    assert (tmp_path / "there.zip").read_bytes() == here.path.read_bytes()


def test_changed_source_changes_the_checksum(checkout: Path, tmp_path: Path) -> None:
    build_in(checkout, tmp_path / "before.zip")
    with (checkout / "cis_tasks" / "jobs.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    build_in(checkout, tmp_path / "after.zip")
    assert (tmp_path / "before.zip").read_bytes() != (tmp_path / "after.zip").read_bytes()


def test_zip_holds_our_modules_for_the_handler_and_no_others(tmp_path: Path) -> None:
    held = names(package.build(tmp_path / "it.zip").path)
    assert held == sorted(held)
    assert {"lambda_trigger/handler.py", "cis_tasks/__init__.py", "cis_tasks/publish.py"} <= {*held}
    assert {name.split("/")[0] for name in held} == {"cis_tasks", "lambda_trigger"}
    assert "lambda_trigger/package.py" not in held
    assert not [name for name in held if "/local/" in name or "/spine/" in name]


def test_zip_can_be_read_by_the_lambda_runtime(tmp_path: Path) -> None:
    with zipfile.ZipFile(package.build(tmp_path / "it.zip").path) as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            assert entry.external_attr >> 16 == 0o100644
            ast.parse(archive.read(entry))


def test_handler_imports_from_the_zip_with_nothing_but_boto3_beside_it(tmp_path: Path) -> None:
    built = package.build(tmp_path / "it.zip")
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for name in RUNTIME:
        (runtime / name).symlink_to(Path(boto3.__file__).parents[1] / name)
    code = (
        f"import sys; sys.path[:0] = [{str(built.path)!r}, {str(runtime)!r}];"
        "from lambda_trigger.handler import handler;"
        "print(handler.__code__.co_filename);"
        "print(sorted(m for m in sys.modules if m.startswith(('cis_tasks', 'lambda_trigger'))))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    file, modules = result.stdout.splitlines()
    assert file.startswith(str(built.path))
    assert set(ast.literal_eval(modules)) == {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in names(built.path)
    }  # everything in it is used


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import numpy", "numpy"),
        ("from celery import Celery", "celery"),
        ("def f():\n    import pydantic.fields", "pydantic"),
    ],
)
def test_third_party_import_is_refused_by_name(
    checkout: Path, tmp_path: Path, line: str, name: str
) -> None:
    with (checkout / "cis_tasks" / "publish.py").open("a") as file:
        file.write(f"\n{line}\n")
    result = build_in(checkout, tmp_path / "it.zip")
    assert result.returncode == 1
    assert f"cis_tasks.publish imports {name}, which the Lambda does not have" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "it.zip").exists()


@pytest.mark.parametrize(
    "line",
    [
        "import botocore.session",
        "import json.decoder, os",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy",
        "import typing\nif typing.TYPE_CHECKING:\n    import numpy\nelse:\n    numpy = None",
    ],
)
def test_other_imports_are_let_through(checkout: Path, tmp_path: Path, line: str) -> None:
    with (checkout / "cis_tasks" / "publish.py").open("a") as file:
        file.write(f"\n{line}\n")
    assert build_in(checkout, tmp_path / "it.zip").returncode == 0


@pytest.mark.parametrize(
    "line",
    [
        "from cis_tasks.extra import THING",
        "from cis_tasks import extra",
        "from . import extra",
        "from .extra import THING",
        "import cis_tasks.extra",
        "def f():\n    from cis_tasks import extra",
    ],
)
def test_modules_of_ours_are_found_however_they_are_imported(
    checkout: Path, tmp_path: Path, line: str
) -> None:
    (checkout / "cis_tasks" / "extra").mkdir()
    (checkout / "cis_tasks" / "extra" / "__init__.py").write_text("from .inner import THING\n")
    (checkout / "cis_tasks" / "extra" / "inner.py").write_text("THING = 1\n")
    with (checkout / "cis_tasks" / "publish.py").open("a") as file:
        file.write(f"\n{line}\n")
    result = build_in(checkout, tmp_path / "it.zip")
    assert result.returncode == 0, result.stderr
    assert {"cis_tasks/extra/__init__.py", "cis_tasks/extra/inner.py"} <= {
        *names(tmp_path / "it.zip")
    }
