"""Tags and the calibration board to print at true size, as PDF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from cis_tasks.errors import PermanentError
from cis_tasks.spine.rig import FAMILY_SIZES, Family, Rig
from cis_tasks.spine.rigging.board import DICTIONARY, Board

PAPERS_MM = {"a4": (210.0, 297.0), "letter": (215.9, 279.4)}
MM = 1 / 25.4  # inches
MARGIN_MM = 12.0
EDGE_MM = 8.0  # that no printer reaches into
FOOT_MM = 22.0  # for the scale bar
LABEL_MM = 10.0
BAR_MM = 100.0
PRINT_AS = "Print at 100 % (actual size), not fitted to the page. This bar must measure 100 mm."


@dataclass(frozen=True)
class Label:
    """A tag to print.

    Attributes:
        tag: its id.
        text: what it is for; empty where that is open.
    """

    tag: int
    text: str = ""


def labels_of(rig: Rig) -> tuple[Label, ...]:
    """The tags of a rig, from the sacrum upwards."""
    return tuple(Label(tag, f"{on.segment} · {on.sensor}") for tag, on in rig.ordered_tags)


def write_tags(
    path: Path, family: Family, size_m: float, labels: Sequence[Label], paper: str = "a4"
) -> int:
    """Write tags as PDF, with a scale bar and a place for each to be cut out.

    Args:
        path: the file to write.
        family: AprilTag family.
        size_m: side of the black square, metres.
        labels: the tags.
        paper: ``a4`` or ``letter``.

    Returns:
        The number of pages.

    Raises:
        PermanentError: ``sheet_invalid`` where a tag is not of the family or does not fit.
    """
    return _write(path, list(tag_pages(family, size_m, labels, paper)))


def write_board(path: Path, board: Board | None = None, paper: str = "a4") -> None:
    """Write the board for camera calibration as PDF.

    Raises:
        PermanentError: ``sheet_invalid`` where it does not fit the page.
    """
    _write(path, [board_page(board or Board(), paper)])


def tag_pages(
    family: Family, size_m: float, labels: Sequence[Label], paper: str = "a4"
) -> Iterator[Figure]:
    """The pages of ``write_tags``."""
    width, height = _paper(paper)
    size = 1000 * size_m
    codes = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_APRILTAG_{family}"))
    cells = codes.markerSize + 2
    outer = size * (cells + 2) / cells  # with the white margin that detection needs
    across = int((width - 2 * MARGIN_MM) // outer)
    down = int((height - MARGIN_MM - FOOT_MM) // (outer + LABEL_MM))
    _require_fit(family, labels, min(across, down), f"tags of {size:g} mm", paper)
    for start in range(0, len(labels), across * down):
        figure, axes = _page(width, height)
        for k, label in enumerate(labels[start : start + across * down]):
            row, column = divmod(k, across)
            x = (width - across * outer) / 2 + column * outer
            y = height - MARGIN_MM - (row + 1) * (outer + LABEL_MM) + LABEL_MM
            axes.add_patch(Rectangle((x, y), outer, outer, fill=False, ec="0.8", lw=0.4, ls=":"))
            inner = x + size / cells, y + size / cells
            bits = cv2.aruco.generateImageMarker(codes, label.tag, cells) < 128
            _fill(axes, bits, inner, size / cells)
            text = f"↑ {family} id {label.tag} · {size:g} mm  {label.text}".rstrip()
            axes.text(x + outer / 2, y - 1.5, text, ha="center", va="top", fontsize=7)
        yield figure


def board_page(board: Board, paper: str = "a4") -> Figure:
    """The page of ``write_board``."""
    width, height = _paper(paper)
    square, cells = 1000 * board.square_m, 7  # a marker of 5×5 with its black border
    across, down = board.columns * square, board.rows * square
    if across > width - 2 * EDGE_MM or down > height - FOOT_MM - EDGE_MM:
        raise _no_sheet(f"a board of {across:g} × {down:g} mm does not fit {paper} paper")
    figure, axes = _page(width, height)
    x0, y0 = (width - across) / 2, height - EDGE_MM - down
    pattern = board.pattern
    chess = np.indices((board.rows, board.columns)).sum(0) % 2 == 0
    _fill(axes, chess, (x0, y0), square)
    codes = cv2.aruco.getPredefinedDictionary(DICTIONARY)
    for number, corners in zip(np.ravel(pattern.getIds()), pattern.getObjPoints(), strict=True):
        left, top = 1000 * np.asarray(corners)[:, :2].min(0)
        bits = cv2.aruco.generateImageMarker(codes, int(number), cells) < 128
        cell = 1000 * board.marker_m / cells
        _fill(axes, bits, (x0 + left, y0 + down - top - cells * cell), cell)
    told = (
        f"ChArUco {board.columns} × {board.rows}, squares {square:g} mm, markers "
        f"{1000 * board.marker_m:g} mm (5×5). Glue it to something flat."
    )
    axes.text(width / 2, FOOT_MM - 4, told, ha="center", va="top", fontsize=7)
    return figure


def _page(width: float, height: float) -> tuple[Figure, mpl.axes.Axes]:
    """A page whose axes count millimetres from its lower left, with the scale bar."""
    figure = Figure(figsize=(width * MM, height * MM))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    x, y = (width - BAR_MM) / 2, 8.0
    axes.add_patch(Rectangle((x, y), BAR_MM, 1.2, color="black", lw=0))
    for at in range(0, 101, 10):
        axes.add_patch(Rectangle((x + at - 0.1, y), 0.2, 3.0, color="black", lw=0))
    axes.text(width / 2, y + 4, PRINT_AS, ha="center", va="bottom", fontsize=7)
    return figure, axes


def _fill(
    axes: mpl.axes.Axes, black: NDArray[np.bool_], corner: tuple[float, float], cell: float
) -> None:
    """Black cells as one outline, so that no hairlines show between them; row 0 is on top."""
    rows = len(black)
    parts = []
    for row, column in np.argwhere(black):
        x, y = corner[0] + column * cell, corner[1] + (rows - 1 - row) * cell
        square = [(x, y), (x + cell, y), (x + cell, y + cell), (x, y + cell), (x, y)]
        parts.append(Outline(square, closed=True))
    if parts:
        axes.add_patch(PathPatch(Outline.make_compound_path(*parts), fc="black", lw=0))


def _write(path: Path, pages: Sequence[Figure]) -> int:
    with (
        mpl.rc_context({"pdf.fonttype": 42}),
        PdfPages(path, metadata={"CreationDate": None}) as out,
    ):
        for page in pages:
            out.savefig(page)
    return len(pages)


def _paper(paper: str) -> tuple[float, float]:
    if paper.lower() not in PAPERS_MM:
        raise _no_sheet(f"{paper} is no paper that is known; there are {', '.join(PAPERS_MM)}")
    return PAPERS_MM[paper.lower()]


def _require_fit(family: Family, labels: Sequence[Label], fit: int, what: str, paper: str) -> None:
    outside = [label.tag for label in labels if not 0 <= label.tag < FAMILY_SIZES[family]]
    if outside:
        raise _no_sheet(f"family {family} has ids 0–{FAMILY_SIZES[family] - 1}, not {outside}")
    if not labels:
        raise _no_sheet("there is no tag to print")
    if fit < 1:
        raise _no_sheet(f"{what} do not fit {paper} paper")


def _no_sheet(why: str) -> PermanentError:
    return PermanentError(
        "sheet_invalid",
        f"No sheet can be made: {why}.",
        "Choose smaller tags, other ids or other paper.",
    )
