"""The ``spine`` pipeline: two uploads in, a calibration, angles and a report out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Outcome, Progress, no_progress
from cis_tasks.spine.options import Options

MODEL = "spine-calibration"
MODEL_VERSION = "1"


def run(
    inputs: Mapping[str, Path],
    out: Path,
    params: Mapping[str, Any],
    progress: Progress = no_progress,
) -> Outcome:
    """Calibrate one session.

    Args:
        inputs: ``sensor_data``, ``video_footage`` and ``rig``.
        out: folder for ``calibration.json``, ``angles.parquet``, ``angles.csv``,
            ``report.html`` and, where asked for, ``overlay.mp4``.
        params: fields of ``Options``.
        progress: told the stages ``read``, ``detect``, ``align``, ``solve``, ``angles``,
            ``report`` and, where asked for, ``overlay``.

    Raises:
        PermanentError: the input is bad, or the result fails a quality gate; in the latter case
            the files are written all the same, to show why.
    """
    options = Options.from_params(params)
    if "rig" not in inputs:
        raise PermanentError(
            "rig_missing",
            "There is no rig for this session, so that camera and tags are unknown.",
            "Upload sensor_data/<session>.json beside the recording, or rigs/default.json for "
            "all sessions; `cis sample DIR` writes one to start from.",
        )
    # Only now, so that the registry can name this function without loading torch and OpenCV.
    from cis_tasks.spine.outputs import summarise, write_outputs  # noqa: PLC0415
    from cis_tasks.spine.procedure import calibrate  # noqa: PLC0415
    from cis_tasks.spine.quality import require_passed  # noqa: PLC0415
    from cis_tasks.spine.report import write_report  # noqa: PLC0415

    calibration = calibrate(
        inputs["sensor_data"],
        inputs["video_footage"],
        inputs["rig"],
        options=options,
        progress=progress,
    )
    progress("report")
    out.mkdir(parents=True, exist_ok=True)
    files = write_outputs(calibration, out)
    report = out / "report.html"
    write_report(calibration, report)
    files.append(report)
    require_passed(calibration)
    if options.overlay:
        from cis_tasks.spine.overlay import write_overlay  # noqa: PLC0415

        files.append(out / "overlay.mp4")
        write_overlay(calibration, inputs["video_footage"], files[-1], progress)
    return Outcome(summarise(calibration), tuple(files), MODEL, MODEL_VERSION)
