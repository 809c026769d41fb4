"""A model that tells one image from another.

The label of an image is a hash of its bytes, so that an answer which belongs to another image
shows. Its first pixel says what else happens: red, and the image is refused; its second and
third channels are tenths of a second of sleep in the stages ``decode`` and ``classify``. A
session gives angles of two pairs of segments, 21 rows of each or as many as a recording says that
begins with ``rows,``.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Outcome, Progress, no_progress

REFUSED = 255


def picture(seed: int, *, refused: bool = False, sleep_s: float = 0.0) -> bytes:
    """A PNG that no other seed gives."""
    image = Image.new("RGB", (32, 32), (seed % 251, seed // 251 % 251, seed // 63_001 % 251))
    tenths = round(sleep_s * 5)
    image.putpixel((0, 0), (REFUSED if refused else 0, tenths, tenths))
    made = io.BytesIO()
    image.save(made, "PNG")
    return made.getvalue()


def label_of(data: bytes) -> str:
    return f"thing {hashlib.sha256(data).hexdigest()[:12]}"


def run(
    inputs: Mapping[str, Path],
    out: Path,
    params: Mapping[str, Any],
    progress: Progress = no_progress,
) -> Outcome:
    if "image" not in inputs:
        return _session(inputs, out)
    path = inputs["image"]
    data = path.read_bytes()
    progress("decode")
    with Image.open(io.BytesIO(data)) as image:
        try:
            red, decode, classify = image.convert("RGB").getpixel((0, 0))
        except OSError as error:
            raise PermanentError("image_truncated", f"{path.name} is cut off: {error}.") from error
    time.sleep(decode / 10)
    if red == REFUSED:
        raise PermanentError("image_bad", f"{path.name} is red.", "Send another.")
    progress("classify")
    time.sleep(classify / 10)
    text = out / f"{path.stem}.txt"
    text.write_text(f"({path.name}, {label_of(data)})\n")
    top = [
        {"index": index, "wordnet_id": f"n{index:08}", "label": label, "probability": share}
        for index, label, share in [(1, label_of(data), 0.8), (2, "moped", 0.1), (3, "cat", 0.05)]
    ]
    return Outcome({**top[0], "top": top, "params": dict(params)}, [text], "telling", "1")


def _session(inputs: Mapping[str, Path], out: Path) -> Outcome:
    angles, report = out / "angles.csv", out / "report.html"
    recording = inputs["sensor_data"].read_bytes()
    count = int(recording.split()[0][5:]) if recording.startswith(b"rows,") else 21
    rows = [
        f"{t / 10},{caudal},{cranial},{t % 21 - 10},{t % 21 / 10},"
        for caudal, cranial in (("sacrum", "L1"), ("L1", "T12"))
        for t in range(count)
    ]
    head = "time_s,caudal,cranial,flexion_deg,lateral_deg,axial_deg"
    angles.write_text("\n".join([head, *rows]) + "\n")
    report.write_text("<p>straight</p>\n")
    gate = {"name": "clocks_agree", "passed": True, "value": 0.3, "limit": 2.0, "unit": "ms"}
    label = label_of(recording)
    summary = {"label": label, "time_offset_s": 0.01, "gates": [gate]}
    return Outcome(summary, [angles, report], "telling", "1")
