"""Counting the members of a chord in S3, so that its body is started once.

The objects of one chord lie below ``<group id>/``:

``count``
    how often a member has ended, where there are many.
``claim``
    which member starts the body; whoever writes it first.
``done``
    the body has been started; what else there was is removed.
``extra/<task id>``
    a member that a running one added.
``header``
    the shape of the header, where it has groups in it.
``part/<index>-<task id>``
    the result of one member. A member that runs twice writes it once.
``size``
    how many members there are.

A listing tells all of it. Whoever ends the last member claims the chord and starts its body. If it
dies in between, its message comes back, the claim is found to be its own, and the body is started
if nothing is stored of it: under the same task id, so that SQS drops the repetition if the first
start had got through a moment ago.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Any

from celery import states

from cis_tasks.broker.objects import ConditionError, Objects

MAX_REMEMBERED = 100  # chords whose counter this process has raised last
FEW = 20  # members whose parts are listed sooner than counted
UNORDERED = 99_999_999  # index of a member that has none: after all others


class Claim(Enum):
    """Who starts the body."""

    MINE = "mine"
    MINE_BEFORE = "mine, from an earlier run of this member"
    ANOTHERS = "another member's"


@dataclass(frozen=True)
class Part:
    """The end of one member.

    Attributes:
        task_id: the member.
        index: its place in the header; None where it has none.
        state: its final state.
        result: its encoded result.
    """

    task_id: str
    index: int | None
    state: str
    result: Any

    @property
    def key(self) -> str:
        """Its key below the chord's; keys sort as the header does."""
        index = UNORDERED if self.index is None else self.index
        return f"part/{index:08d}-{self.task_id}"


@dataclass(frozen=True)
class Count:
    """Where a chord stands.

    Attributes:
        parts: keys of the members that have ended, in the order of the header.
        total: how many members there are; None while that is not known.
        done: whether the body has been started.
        has_header: whether the header's shape is stored.
    """

    parts: Sequence[str]
    total: int | None
    done: bool
    has_header: bool

    @property
    def complete(self) -> bool:
        """Whether all members have ended and the body waits to be started."""
        return not self.done and self.total is not None and len(self.parts) >= self.total


@dataclass(frozen=True)
class _Counter:
    """How many members there are, and how often one has ended."""

    size: float
    ends: int = 0
    etag: str | None = None
    done: bool = False


@dataclass(frozen=True)
class Chord:
    """One chord's objects.

    Attributes:
        objects: where they are.
        root: what their keys begin with, with a slash at its end.
    """

    objects: Objects
    root: str

    def begin(self, header: bytes | None) -> bool:
        """Prepare a run of the chord.

        What a run before left is removed if it came to its end. One that has not is the same run,
        published again by a task that was itself repeated: its members are not counted anew.

        Args:
            header: the header's shape; None where it is a plain list.

        Returns:
            Whether there was a run before that has come to its end.
        """
        left = [item.key for item in self.objects.list(self.root)]
        again = f"{self.root}done" in left
        if again:
            self.objects.delete(left)
        if header is not None:
            self.objects.put(f"{self.root}header", header)
        return again

    def set_size(self, size: int) -> None:
        """Say how many members the header has."""
        self.objects.put(f"{self.root}size", str(size).encode())

    def add_member(self, task_id: str) -> None:
        """Say that a running member added another one."""
        self.objects.put(f"{self.root}extra/{task_id}", b"")

    def end_member(self, part: Part, body: bytes) -> None:
        """Store the result of a member; the first one counts, and any success before a failure.

        Args:
            part: how it ended.
            body: the encoded part.
        """
        key, metadata = self.root + part.key, {"state": part.state}
        try:
            self.objects.replace(key, body, None, metadata)
        except ConditionError:
            if part.state != states.SUCCESS:
                return
            found = self.objects.head(key)
            if found is None or found.metadata.get("state") != states.SUCCESS:
                self.objects.put(key, body, metadata)

    def may_be_complete(self) -> bool:
        """Count one more end of a member; False where others must end before all have.

        A listing for each member would be a million keys for a thousand members. So there is a
        counter, raised after the member's part is stored; a member that runs twice raises it
        twice. It is never too low: the last one to raise it sees no less than there are members.
        """
        while True:
            counter = _counters.pop(self, None) or self._read_counter()
            if counter.size <= FEW or counter.done:
                return True
            ends = counter.ends + 1
            with suppress(ConditionError):  # if another one got on, look again
                key, body = f"{self.root}count", str(ends).encode()
                etag = self.objects.replace(key, body, counter.etag)
                if counter.size < inf:
                    self._remember(_Counter(counter.size, ends, etag))
                return ends >= counter.size

    def count(self) -> Count:
        """How many members have ended, of how many."""
        names = [item.key.removeprefix(self.root) for item in self.objects.list(self.root)]
        return Count(
            parts=[self.root + name for name in names if name.startswith("part/")],
            total=self._total(names),
            done="done" in names,
            has_header="header" in names,
        )

    def claim(self, task_id: str) -> Claim:
        """Take it on to start the body, unless another member has.

        Args:
            task_id: the member that does.
        """
        key = f"{self.root}claim"
        try:
            self.objects.replace(key, json.dumps(task_id).encode(), None)
        except ConditionError:
            found = self.objects.get(key)
            mine = found is not None and json.loads(found.body) == task_id
            return Claim.MINE_BEFORE if mine else Claim.ANOTHERS
        return Claim.MINE

    def parts(self, count: Count) -> list[bytes]:
        """The encoded parts of all members, in the order of the header."""
        return [found.body for found in self.objects.get_many(count.parts) if found]

    def header(self) -> bytes | None:
        """The header's shape, as `begin` stored it."""
        found = self.objects.get(f"{self.root}header")
        return found.body if found else None

    def close(self) -> None:
        """The body has been started: late members find that out, and no more is kept."""
        self.objects.put(f"{self.root}done", b"")
        done = f"{self.root}done"
        left = [item.key for item in self.objects.list(self.root) if item.key != done]
        self.objects.delete(left)

    def drop(self, part: Part) -> None:
        """Remove the part of a member that ended after the body was started."""
        self.objects.delete([self.root + part.key])

    def _read_counter(self) -> _Counter:
        size = self.objects.get(f"{self.root}size")
        if size is None and self.objects.head(f"{self.root}done"):
            return _Counter(inf, done=True)
        total = int(size.body) if size else inf  # the last member is not published yet
        found = self.objects.get(f"{self.root}count") if total > FEW else None
        return _Counter(total, int(found.body), found.etag) if found else _Counter(total)

    def _remember(self, counter: _Counter) -> None:
        _counters[self] = counter
        if len(_counters) > MAX_REMEMBERED:
            with suppress(KeyError):  # another thread has just made room
                _counters.popitem(last=False)

    def _total(self, names: Sequence[str]) -> int | None:
        if "size" not in names:
            return None
        found = self.objects.get(f"{self.root}size")
        if found is None:
            return None
        return int(found.body) + sum(name.startswith("extra/") for name in names)


#: What this process knows of chords whose members end in it, mostly one after another.
_counters: OrderedDict[Chord, _Counter] = OrderedDict()
