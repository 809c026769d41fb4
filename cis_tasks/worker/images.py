"""The ``image`` pipeline: a photograph in, its classes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cis_tasks.errors import PermanentError
from cis_tasks.image.classification import best
from cis_tasks.image.decode import decode
from cis_tasks.image.frame import frame, least_sides
from cis_tasks.jobs import Outcome, Progress, no_progress
from cis_tasks.worker.figures import figures
from cis_tasks.worker.options import Options
from cis_tasks.worker.serving import servers


def run(
    inputs: Mapping[str, Path],
    out: Path,
    params: Mapping[str, Any],
    progress: Progress = no_progress,
) -> Outcome:
    """Classify one image.

    Args:
        inputs: ``image``.
        out: folder for ``<name>.txt``, which holds ``(<file name>, <label>)``.
        params: fields of `Options`.
        progress: told the stages ``model``, ``decode`` and ``classify``.

    Raises:
        PermanentError: the file is no image that can be read, or the model cannot be used.
        TransientError: the model is in S3, which did not answer.
    """
    try:
        return _classify(inputs["image"], out, Options.from_params(params), progress)
    except PermanentError:
        figures.failure()
        raise


def _classify(path: Path, out: Path, options: Options, progress: Progress) -> Outcome:
    progress("model")
    server = servers.get(options.model)
    bundle = server.bundle
    preprocess = bundle.card.preprocess
    with server.announced() as score:
        progress("decode")
        picture = decode(path.read_bytes(), path.name, least_sides(preprocess))
        pixels = frame(picture.pixels, preprocess)
        progress("classify")
        scores = score(pixels)
    guesses = best(scores, bundle.labels, options.top)
    text = out / f"{path.stem}.txt"
    text.write_text(f"({path.name}, {guesses[0].label})\n", encoding="utf-8")
    summary = {
        **guesses[0].to_dict(),
        "top": [guess.to_dict() for guess in guesses],
        "weights_sha256": bundle.card.sha256,
        "runtime": server.runtime,
        "width": picture.width,
        "height": picture.height,
        "format": picture.format,
    }
    return Outcome(summary, (text,), bundle.card.name, bundle.version)
