"""What has to be installed for a part of the product, read from pyproject.toml.

Run as a script where nothing is installed yet, as in the Dockerfile:

    python requirements.py pyproject.toml worker > requirements.txt
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, *extras: str) -> list[str]:
    """The dependencies of the product and those of ``extras``, sorted, as pip reads them.

    Raises:
        KeyError: there is no such extra.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    found = set(project["dependencies"])
    for extra in extras:
        found.update(project["optional-dependencies"][extra])
    return sorted(found)


if __name__ == "__main__":
    sys.stdout.write("\n".join([*requirements(Path(sys.argv[1]), *sys.argv[2:]), ""]))
