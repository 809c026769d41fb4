"""The README's ways to call the tier, as they are typed there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import Running
from telling_model import label_of, picture

README = Path(__file__).parents[2] / "README.md"
SERVER = "http://127.0.0.1:8080"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cat.jpg").write_bytes(picture(90))
    return tmp_path


def typed(language: str, tier: Running) -> str:
    """The README's snippet in a language that asks the server, led to this tier."""
    snippets = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    [asking] = [snippet for snippet in snippets if SERVER in snippet]
    return asking.replace(SERVER, tier.url)


def test_curl_prints_the_label(tier: Running, folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-ec", typed("sh", tier)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout == label_of(picture(90))


def test_python_prints_the_classes(tier: Running, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", typed("python", tier)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.splitlines()[0] == f"0.80 {label_of(picture(90))}"


def test_the_page_is_where_the_readme_says(tier: Running) -> None:
    assert f"open <{SERVER}/>" in README.read_text()
    with tier.client() as client:
        assert "<title>cis-tasks</title>" in client.get("/").text
