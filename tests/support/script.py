"""A model that obeys: the sensor file says what it does, as JSON.

``{"runs": "/path/of/a/log", "gate": "/a/file", "sleep_s": 3, "fail": 2, "bad": true}``. Each run
appends a line to the log; ``gate`` names a file to wait for; ``fail`` lets the first that many
runs fail for no fault of the input, with ``out_of_memory`` as a GPU does; ``bad`` refuses the
input for good.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Outcome, Progress, no_progress


def run(
    inputs: Mapping[str, Path],
    out: Path,
    params: Mapping[str, Any],
    progress: Progress = no_progress,
) -> Outcome:
    script = json.loads(inputs["sensor_data"].read_text())
    log = Path(script["runs"])
    with log.open("a") as file:
        file.write(f"{os.getpid()} {time.time()}\n")
    runs = len(log.read_text().splitlines())
    progress("obey", 0.5)
    while "gate" in script and not Path(script["gate"]).exists():
        time.sleep(0.05)
    time.sleep(script.get("sleep_s", 0))
    if script.get("bad"):
        (out / "why.txt").write_text("because\n")
        raise PermanentError("script_bad", "The script is bad.", "Write a good one.")
    if runs <= script.get("fail", 0):
        if script.get("out_of_memory"):
            raise torch_error()("CUDA out of memory. Tried to allocate 2.00 GiB.")
        raise ConnectionError(f"run {runs} was to fail")
    answer = out / "answer.txt"
    answer.write_text("42\n")
    return Outcome({"answer": 42, "params": dict(params)}, [answer], "script", "1")


def torch_error() -> type[Exception]:
    from torch import OutOfMemoryError

    return OutOfMemoryError
