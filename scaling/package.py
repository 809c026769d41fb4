"""The publisher Lambda's zip, made like that of the upload Lambda."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lambda_trigger.package import Package, PackageError
from lambda_trigger.package import build as build_for

HANDLER = "scaling.handler"


def build(path: Path) -> Package:
    """Write the zip to ``path``; the same sources give the same bytes.

    Raises:
        PackageError: the handler imports a third-party package that Lambda does not have.
    """
    return build_for(path, HANDLER)


def main() -> None:
    """Build the zip that the command line names and print its checksum."""
    parser = argparse.ArgumentParser(prog="python -m scaling.package", description=__doc__)
    parser.add_argument("zip", type=Path, help="file to write")
    try:
        built = build(parser.parse_args().zip)
    except (PackageError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{built.sha256}  {built.path}  {built.size} bytes\n")


if __name__ == "__main__":
    main()
