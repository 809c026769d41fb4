"""What the classes of a model are called."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Label:
    """A class of a model.

    Attributes:
        name: what people call it. Two classes may share a name: ImageNet has two cranes.
        wordnet_id: its WordNet synset, such as ``n02123045``; None where the model has none.
    """

    name: str
    wordnet_id: str | None = None


@functools.cache
def imagenet() -> tuple[Label, ...]:
    """The 1000 classes of ImageNet's challenge of 2012, in the order of their index.

    Each is called by the first word of its synset in WordNet 3.0.

    Source: https://image-net.org/challenges/LSVRC/2012/browse-synsets
    """
    text = resources.files(__package__).joinpath("imagenet.tsv").read_text(encoding="utf-8")
    return read_labels(text.splitlines())


def read_labels(lines: Iterable[str]) -> tuple[Label, ...]:
    """Labels from lines of ``name`` or ``wordnet_id<TAB>name``; empty lines are passed over."""
    return tuple(_label(line) for line in lines if line.strip())


def _label(line: str) -> Label:
    before, tab, after = line.strip().partition("\t")
    return Label(after.strip(), before.strip() or None) if tab else Label(before)
