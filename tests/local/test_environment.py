"""Environment variables for the processes of the laptop cloud."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cis_tasks.local import environment as env
from support.cloud import environment

ENDPOINT = "http://127.0.0.1:4566"


def test_no_proxy_is_left_as_it_is_where_there_is_no_proxy() -> None:
    assert env.past_proxies({"NO_PROXY": "a"}) == {}


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_this_machine_is_added_to_the_exceptions_that_are_there(name: str) -> None:
    found = env.past_proxies({name: "http://proxy:3128", "no_proxy": "intranet,localhost"})
    assert found == dict.fromkeys(("NO_PROXY", "no_proxy"), "intranet,localhost,127.0.0.1")


def test_worker_finds_our_modules_in_any_folder(tmp_path: Path) -> None:
    code = "import cis_tasks, celeryconfig; print(cis_tasks.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=env.of_worker({"PATH": os.environ["PATH"]}, {}, 1),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).name == "__init__.py"


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 1, "8"), (8, 3, "2"), (2, 4, "1")])
def test_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: str
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert env.of_worker({}, {}, workers)["OMP_NUM_THREADS"] == threads


def test_given_number_of_threads_is_kept() -> None:
    assert env.of_worker({"OMP_NUM_THREADS": "3"}, {}, 1)["OMP_NUM_THREADS"] == "3"


def test_given_aws_keeps_its_credentials_and_region() -> None:
    given = {
        "AWS_ENDPOINT_URL": ENDPOINT,
        "AWS_ACCESS_KEY_ID": "theirs",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    with environment(given):
        assert env.to_given_aws() == {**given, "AWS_REGION": "eu-central-1"}


def test_given_emulator_without_credentials_gets_some() -> None:
    with environment({"AWS_ENDPOINT_URL": ENDPOINT}):
        assert env.to_given_aws() == env.to_emulator(ENDPOINT)


def test_script_gives_a_shell_the_same_variables(tmp_path: Path) -> None:
    variables = {"CIS_A": "plain", "CIS_B": 'it\'s "quoted" $HOME `date` \\'}
    script = tmp_path / "environment.sh"
    for _ in range(2):  # one that is there already is replaced
        env.write_script(variables, script)
    shell = f". {script} && {sys.executable} -c 'import os; print(os.environ)'"
    said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    for name, value in variables.items():
        assert f"{name!r}: {value!r}" in said
    assert script.stat().st_mode & 0o777 == 0o600
