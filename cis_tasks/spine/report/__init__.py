"""The report: one HTML file that shows a calibration, readable without network or scripts."""

from __future__ import annotations

from pathlib import Path

from cis_tasks.spine.calibration import Calibration
from cis_tasks.spine.report.page import page_of

__all__ = ["write_report"]


def write_report(calibration: Calibration, path: Path) -> None:
    """Write a calibration as one HTML file.

    The file needs nothing else: style, figures and pictures are inside, there are no scripts. It
    holds no dates and no folders, so that equal calibrations give equal bytes. A calibration
    whose gates are not passed is shown all the same, and says so at its top.

    Args:
        calibration: what to show.
        path: the file to write.
    """
    path.write_bytes(page_of(calibration).encode("utf-8"))
