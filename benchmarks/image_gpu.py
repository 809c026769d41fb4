"""Images per second of a worker's insides beside the model alone: decoding, batching, figures.

The bare loop is the model on batches of 32 that lie ready in memory, in this process, on the same
device. Against it run the worker's threads, each on an image of its own: decode, frame, hand in to
the micro-batcher, take the best five. Without S3 and SQS, which `queue_path.py` measures; with as
many threads as `cis worker image` has. "batch" is the mean size of the batches that formed.

On a machine with CUDA the goal is that the whole reaches 0.9 of the model; without, the figures are
of the CPU, where images are not batched, and no goal is judged.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reporting import Goal, arguments, report

SHARE = 0.9
BATCH = 32
QUICK_S, FULL_S, ROUNDS = 2.0, 10.0, 3
COLUMNS = ["", "images/s", "CPU ms/image", "× model", "batch"]


def rate(work: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Images per second, and CPU ms for each, of calls that do some images."""
    work()
    done, started, cpu = 0, time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - started) < seconds:
        done += work()
    return done / passed, 1e3 * (time.process_time() - cpu) / done


def measure(seconds: float, threads: int | None) -> dict[str, Any]:
    """Figures of the model alone, and of the worker's threads around it."""
    import skimage  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    from cis_tasks.image.classification import best  # noqa: PLC0415
    from cis_tasks.image.decode import decode  # noqa: PLC0415
    from cis_tasks.image.frame import frame, least_sides  # noqa: PLC0415
    from cis_tasks.image.models import open_model  # noqa: PLC0415
    from cis_tasks.pipelines import find  # noqa: PLC0415
    from cis_tasks.worker.command import pool_options  # noqa: PLC0415
    from cis_tasks.worker.figures import figures  # noqa: PLC0415
    from cis_tasks.worker.serving import servers  # noqa: PLC0415

    path = Path(skimage.__file__).parent / "data/coffee.png"
    data = _jpeg(Image.open(path).convert("RGB"))
    server = servers.get()
    preprocess = server.bundle.card.preprocess
    model = open_model(server.bundle.card.name, device=server.devices[0])
    pixels = frame(decode(data, "coffee", least_sides(preprocess)).pixels, preprocess)
    size = BATCH if server.devices[0] != "cpu" else 1
    ready = [pixels] * size
    count = threads or int(pool_options(find("image"))[3])

    def bare() -> int:
        model.score(ready)
        return size

    def one() -> None:
        with server.announced() as hand_in:
            picture = decode(data, "coffee", least_sides(preprocess))
            scores = hand_in(frame(picture.pixels, preprocess))
        best(scores, server.bundle.labels, 5)

    with ThreadPoolExecutor(count) as pool:

        def whole() -> int:
            for future in [pool.submit(one) for _ in range(4 * count)]:
                future.result()
            return 4 * count

        rounds = []
        for _ in range(ROUNDS):
            before = figures.snapshot()
            rounds.append({"bare": rate(bare, seconds), "whole": rate(whole, seconds)})
        after = figures.snapshot()
    batches = sum(after.batches.values()) - sum(before.batches.values())
    return {
        "device": server.devices[0],
        "devices": len(server.devices),
        "runtime": server.runtime,
        "threads": count,
        "gpus": [gpu.name for gpu in after.gpus],
        "bare_per_s": statistics.median(one["bare"][0] for one in rounds),
        "bare_cpu_ms": statistics.median(one["bare"][1] for one in rounds),
        "whole_per_s": statistics.median(one["whole"][0] for one in rounds),
        "whole_cpu_ms": statistics.median(one["whole"][1] for one in rounds),
        "share": statistics.median(one["whole"][0] / one["bare"][0] for one in rounds),
        "mean_batch": (after.images - before.images) / max(1, batches),
    }


def _jpeg(image: Any) -> bytes:
    import io  # noqa: PLC0415

    out = io.BytesIO()
    image.resize((500, 333)).save(out, "JPEG", quality=90)
    return out.getvalue()


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, help="of the worker; else its own choice")
    options = parser.parse_args()
    found = measure(QUICK_S if options.quick else FULL_S, options.threads)
    on_cuda = found["device"] != "cpu"
    goals = []
    if on_cuda:
        share = found["share"] / found["devices"]
        goals.append(Goal("images/s, whole / model alone", share, SHARE, share >= SHARE))
    where = ", ".join(found["gpus"]) or "the CPU"
    report(
        f"Images on {where} ({found['runtime']}), {found['threads']} threads; medians of {ROUNDS}",
        COLUMNS,
        [
            ["model alone", f"{found['bare_per_s']:.0f}", f"{found['bare_cpu_ms']:.1f}", "1", ""],
            [
                "decode, batch, answer",
                f"{found['whole_per_s']:.0f}",
                f"{found['whole_cpu_ms']:.1f}",
                f"{found['share']:.2f}",
                f"{found['mean_batch']:.1f}",
            ],
        ],
        figures=found,
        goals=goals,
        as_json=options.as_json,
    )
    if not on_cuda:
        print("no CUDA device here: the goal is judged on a GPU alone", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
