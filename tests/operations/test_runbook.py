"""The runbook: every command in it exists, and so does every test that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from cis_tasks.commands.main import app
from cis_tasks.settings import Settings
from cis_tasks.web.settings import WebSettings

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs/operations.md").read_text()
COMMANDS = sorted(
    {
        found.partition("#")[0].strip()
        for found in (
            *re.findall(r"^    (cis .*)$", RUNBOOK, re.MULTILINE),
            *re.findall(r"`(cis [^`]*)`", RUNBOOK),
        )
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_runbook_exists_with_its_options(line: str) -> None:
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"{name} in {line}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    options |= {option for parameter in command.params for option in parameter.secondary_opts}
    used = {word for word in words if word.startswith("--")}
    assert used <= options, line


def test_every_file_and_variable_that_it_names_exists() -> None:
    for path in re.findall(r"`((?:tests|cis_tasks)/[^`]*)`", RUNBOOK):
        assert (ROOT / path).exists(), path
    fields = {f"CIS_{name.upper()}" for name in Settings.model_fields}
    fields |= {f"CIS_WEB_{name.upper()}" for name in WebSettings.model_fields}
    assert set(re.findall(r"\bCIS_[A-Z0-9_]+\b", RUNBOOK)) <= fields


def test_help_lists_the_operations() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    for command in ("doctor", "dlq", "replay", "sweep", "cancel", "purge", "cost", "forget"):
        assert re.search(rf"\b{command}\b", text)
