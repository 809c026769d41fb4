"""The Lambda's zip: what the handler imports of ours and nothing else, the same bytes each time."""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HANDLER = "lambda_trigger.handler"
OURS = frozenset({"cis_tasks", "lambda_trigger", "scaling"})
RUNTIME = frozenset({"boto3", "botocore"})
"""What every Python runtime of Lambda has already."""

EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first moment
UNIX = 3
READABLE = 0o100644 << 16  # a regular file that everybody may read: Lambda requires it


class PackageError(Exception):
    """The handler needs something that the zip may not hold; says what and who imports it."""


@dataclass(frozen=True)
class Package:
    """A built zip.

    Attributes:
        path: where it is.
        sha256: checksum of its bytes, in hexadecimal digits.
        size: bytes.
    """

    path: Path
    sha256: str
    size: int


def build(path: Path, handler: str = HANDLER) -> Package:
    """Write the zip of the module ``handler`` to ``path``.

    Its bytes depend on the sources alone, not on times, permissions or the machine: entries are
    sorted and stored uncompressed, as compression differs between versions of zlib.

    Raises:
        PackageError: the handler imports a third-party package that Lambda does not have.
    """
    files = sources(handler)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = UNIX
            entry.external_attr = READABLE
            archive.writestr(entry, files[name].read_bytes())
    data = path.read_bytes()
    return Package(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def sources(handler: str = HANDLER) -> dict[str, Path]:
    """The files that the module ``handler`` needs, by their name in the zip.

    Found by reading imports, not by running them. Those under ``if TYPE_CHECKING`` do not
    count, nor do those in functions of a package's ``__init__``, which serve its users and not
    its own modules.

    Raises:
        PackageError: an import leads to a third-party package that Lambda does not have.
    """
    found: dict[str, Path] = {}
    waiting = [handler]
    while waiting:
        module = waiting.pop()
        for part in _with_parents(module):
            file = _file_of(part)
            name = _archive_name(part, file)
            if name not in found:
                found[name] = file
                waiting += _imports_of_ours(part, file)
    return found


def main() -> None:
    """Build the zip that the command line names and print its checksum."""
    parser = argparse.ArgumentParser(prog="python -m lambda_trigger.package", description=__doc__)
    parser.add_argument("zip", type=Path, help="file to write")
    try:
        built = build(parser.parse_args().zip)
    except (PackageError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{built.sha256}  {built.path}  {built.size} bytes\n")


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _file_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise PackageError(f"There is no source file for the module {module}.")
    return Path(spec.origin)


def _archive_name(module: str, file: Path) -> str:
    folder = module.replace(".", "/")
    return f"{folder}/__init__.py" if file.name == "__init__.py" else f"{folder}.py"


def _imports_of_ours(module: str, file: Path) -> list[str]:
    ours = []
    for name in _imports(module, file):
        top = name.partition(".")[0]
        if top in OURS:
            ours.append(name)
        elif top not in RUNTIME and top not in sys.stdlib_module_names:
            raise PackageError(
                f"{module} imports {top}, which the Lambda does not have. Import it inside a "
                "function that the handler does not call, in a module it does not import."
            )
    return ours


def _imports(module: str, file: Path) -> Iterator[str]:
    is_package = file.name == "__init__.py"
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    for node in _executed(tree.body, functions=not is_package):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package=is_package)
            yield base
            if base.partition(".")[0] in OURS:
                yield from _submodules(base, (alias.name for alias in node.names))


def _executed(nodes: Iterable[ast.AST], *, functions: bool) -> Iterator[ast.AST]:
    """``nodes`` and all that is in them, without what only type checkers see."""
    for node in nodes:
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _executed(node.orelse, functions=functions)
        elif functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from _executed(ast.iter_child_nodes(node), functions=functions)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    package = module if is_package else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def _submodules(base: str, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            spec = importlib.util.find_spec(f"{base}.{name}")
        except ModuleNotFoundError:
            continue  # base is a module, not a package: the name is defined in it
        if spec is not None:
            yield f"{base}.{name}"


if __name__ == "__main__":
    main()
