"""The workers of one machine, one per GPU, which tell its group with one voice.

Without it the first worker to be ready would put the machine into service, an idle one would let
scale-in take it from a busy one, and the first to end would let AWS terminate it under the others.

Each worker keeps a file in a folder that all of the machine's have, and holds it locked for as long
as it lives: a killed one counts as gone at once. The folder must not outlast a boot (``/run``).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

SUFFIX = ".worker"
GOING = "going"
"""File that says that the machine goes; the unit of a worker starts none while it is there."""

TOLD_READY = "told-ready"


class Host(Protocol):
    """The workers of a machine, as one of them sees them."""

    def ready(self) -> bool:
        """This worker takes jobs; whether it is the one to say that the machine does."""
        ...

    def busy(self, *, mine: bool) -> bool:
        """Whether any worker has jobs; ``mine`` says whether this one has."""
        ...

    def speaks(self) -> bool:
        """Whether it is this worker that protects the machine and releases it."""
        ...

    def retire(self) -> None:
        """This worker takes no more jobs: another one is to speak."""
        ...

    def going(self) -> None:
        """The machine goes: no worker is to start any more."""
        ...

    def leave(self) -> bool:
        """This worker ends; whether it was the last."""
        ...


class Alone:
    """The only worker of its machine."""

    def ready(self) -> bool:
        """True."""
        return True

    def busy(self, *, mine: bool) -> bool:
        """Whether it has jobs."""
        return mine

    def speaks(self) -> bool:
        """True."""
        return True

    def retire(self) -> None:
        """Do nothing: there is no other."""

    def going(self) -> None:
        """Do nothing: whoever runs one worker does not start it again after an exit of 0."""

    def leave(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True)
class _State:
    ready: bool = False
    busy: bool = False


class Shared:
    """One of several workers.

    Args:
        folder: of the machine's workers; made if need be.
        name: this worker's.
        names: those of all that the machine is to have.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, name: str, names: Sequence[str]) -> None:
        self._folder, self._name = folder, name
        self._expected = {name, *names}
        folder.mkdir(parents=True, exist_ok=True)
        self._mine = _State()
        self._file: IO[str] | None = None
        with self._alone():
            self._file = self._path(name).open("a+")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write()
        os.register_at_fork(after_in_child=self._file.close)  # else a child would keep the lock

    def ready(self) -> bool:
        """This worker takes jobs; True once, for whoever finds all of them ready."""
        with self._alone():
            self._set(replace(self._mine, ready=True))
            others = self._living()
            told = self._folder / TOLD_READY
            if told.exists() or not all(
                name in others and others[name].ready for name in self._expected - {self._name}
            ):
                return False
            told.touch()
            return True

    def busy(self, *, mine: bool) -> bool:
        """Whether any worker has jobs."""
        if mine != self._mine.busy:
            with self._alone():
                self._set(replace(self._mine, busy=mine))
        return mine or any(other.busy for other in self._living().values())

    def speaks(self) -> bool:
        """Whether it is the first by name of those that take jobs."""
        return all(self._name < name for name, other in self._living().items() if other.ready)

    def retire(self) -> None:
        """This worker takes no more jobs: another one is to speak."""
        if self._mine.ready:
            with self._alone():
                self._set(replace(self._mine, ready=False))

    def going(self) -> None:
        """The machine goes: units start no worker any more."""
        with suppress(OSError):  # else units start workers that leave at once
            (self._folder / GOING).touch()

    def leave(self) -> bool:
        """This worker ends; whether no other is left."""
        with self._alone():
            if self._file is None:
                return False
            self._path(self._name).unlink(missing_ok=True)
            self._file.close()
            self._file = None
            return not self._living()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"

    def _set(self, state: _State) -> None:
        self._mine = state
        self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        self._file.seek(0)
        self._file.truncate()
        json.dump(vars(self._mine), self._file)
        self._file.flush()

    def _living(self) -> dict[str, _State]:
        """The other workers that live."""
        found = {}
        for path in self._folder.glob(f"*{SUFFIX}"):
            name = path.name.removesuffix(SUFFIX)
            if name != self._name:
                # Gone meanwhile, or being written: it is looked at again soon.
                with suppress(OSError, ValueError):
                    if (text := _held(path)) is not None:
                        found[name] = _State(**json.loads(text))
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within the block, no other worker changes anything."""
        with (self._folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _held(path: Path) -> str | None:
    """What a living worker's file says; None where its worker is gone."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read()
    return None
