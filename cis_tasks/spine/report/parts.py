"""The page's building blocks: figures, tables and signs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cis_tasks.spine.calibration import Gate
from cis_tasks.spine.markup import Markup, element


def figure(plot: Markup, words: str, *caption: str) -> Markup:
    """A plot with its words for those who do not see it, and a caption."""
    shown = element("div", plot, role="img", aria_label=words)
    return element("figure", shown, element("figcaption", *caption))


def table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()
) -> Markup:
    """A table whose rows become cards on a narrow screen, each value beside its title."""

    def cell(i: int, value: str) -> Markup:
        kind = {"class_": "number"} if i in numbers else {}
        return element("td", element("span", value), data_label=titles[i], **kind)

    head = [column(title, number=i in numbers) for i, title in enumerate(titles)]
    body = [element("tr", *(cell(i, value) for i, value in enumerate(row))) for row in rows]
    parts = (element("thead", element("tr", *head)), element("tbody", *body))
    return wide(element("table", *parts, class_="cards"))


def column(title: str, *, number: bool) -> Markup:
    """The head of a column."""
    kind = {"class_": "number"} if number else {}
    return element("th", title, scope="col", **kind)


def wide(table: Markup) -> Markup:
    """A table that scrolls by itself where the page is too narrow."""
    return element("div", table, class_="wide")


_SIGNS = {"pass": "✓", "warn": "!", "fail": "✗"}


def sign(kind: str) -> Markup:
    """The sign of ``pass``, ``warn`` or ``fail``."""
    return element("span", _SIGNS[kind], class_=f"sign {kind}", aria_hidden="true")


def kind(gate: Gate) -> str:
    """Which sign a check gets."""
    return "pass" if gate.passed else gate.level
