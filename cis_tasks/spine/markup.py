"""HTML that is escaped by the way it is made: text is text unless it is ``Markup``."""

from __future__ import annotations

import html
import re

VOID = frozenset({"br", "img", "link", "meta"})
# Neither HTML nor a reader has a use for control characters; lone surrogates cannot be encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """Text as HTML, in element content and in quoted attributes."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", text), quote=True))


def element(tag: str, *children: str, **attributes: str) -> Markup:
    """An element with its children; those that are not ``Markup`` are escaped.

    Args:
        tag: name of the element.
        children: text or markup, in order.
        attributes: ``_`` stands for ``-``; one at the end is dropped, as in ``class_``.
    """
    listed = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
    )
    if tag in VOID:
        return Markup(f"<{tag}{listed}>")
    return Markup(f"<{tag}{listed}>{join(*children)}</{tag}>")


def join(*children: str) -> Markup:
    """Children side by side."""
    return Markup("".join(escape(child) for child in children))


def name(text: str) -> Markup:
    """A name that a user gave: its writing direction stays its own."""
    return element("bdi", text)
