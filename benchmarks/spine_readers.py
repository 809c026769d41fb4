"""How long recordings take to read: ten minutes of eight sensors at 400 Hz in every layout.

Beside it the bare parse of the same file by polars, which looks at neither clocks, units nor
damage.
"""

from __future__ import annotations

import resource
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from reporting import Goal, arguments, report

from cis_tasks.spine.readers import read_recording

RATE_HZ, SENSORS = 400, 8
MOST_CPU_S = 10.0


def main() -> None:
    args = arguments(__doc__).parse_args()
    duration_s = 60 if args.quick else 600
    with tempfile.TemporaryDirectory() as folder:
        tables = made_up(duration_s)
        sources = write(tables, Path(folder))
        rows, figures, goals = [], {}, []
        for layout, path in sources.items():
            cpu_s, recording = timed(lambda path=path: read_recording(path))
            bare_s, _ = timed(lambda path=path: bare(path))
            readings = sum(len(track.time_s) for track in recording.tracks.values())
            size_mb = path.stat().st_size / 1e6
            figures[layout] = {
                "cpu_s": cpu_s,
                "bare_cpu_s": bare_s,
                "size_mb": size_mb,
                "readings": readings,
            }
            rows.append(
                (layout, f"{size_mb:.0f} MB", f"{readings:,}", f"{cpu_s:.2f}", f"{bare_s:.2f}",
                 f"{cpu_s / bare_s:.1f}×", f"{readings / cpu_s / 1e6:.2f} M/s")
            )  # fmt: skip
            scaled = cpu_s * 600 / duration_s
            goals.append(Goal.at_most(f"{layout}: CPU s for ten minutes", scaled, MOST_CPU_S))
    figures["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    report(
        f"Reading {duration_s} s of {SENSORS} sensors at {RATE_HZ} Hz",
        ("layout", "size", "readings", "CPU s", "bare parse CPU s", "ratio", "readings"),
        rows,
        figures=figures,
        goals=goals,
        as_json=args.as_json,
    )


def made_up(duration_s: int) -> dict[str, pl.DataFrame]:
    """Sensors that turn in gravity."""
    rng = np.random.default_rng(0)
    time_s = np.arange(duration_s * RATE_HZ) / RATE_HZ
    tables = {}
    for k in range(SENSORS):
        angle = 0.5 * np.sin(2 * np.pi * 0.3 * time_s + k)
        rate = np.gradient(angle, time_s)
        noise = rng.normal(0, 0.003, (6, len(time_s)))
        columns = {
            "timestamp_s": time_s,
            "gyr_x": rate + noise[0],
            "gyr_y": noise[1],
            "gyr_z": noise[2],
            "acc_x": noise[3],
            "acc_y": 9.81 * np.sin(angle) + noise[4],
            "acc_z": 9.81 * np.cos(angle) + noise[5],
        }
        numbers = pl.all().exclude("timestamp_s").round_sig_figs(8)
        tables[f"imu{k + 1}"] = pl.DataFrame(columns).with_columns(numbers)
    return tables


def write(tables: dict[str, pl.DataFrame], folder: Path) -> dict[str, Path]:
    """The same recording in every layout."""
    long = pl.concat([t.with_columns(sensor_id=pl.lit(name)) for name, t in tables.items()])
    long = long.sort("timestamp_s", "sensor_id")
    long.write_csv(folder / "long.csv")
    long.write_parquet(folder / "long.parquet")
    first = next(iter(tables.values()))
    wide = pl.concat(
        [first.select("timestamp_s")]
        + [
            t.drop("timestamp_s").rename(
                {c: f"{name}_{c}" for c in t.columns if c != "timestamp_s"}
            )
            for name, t in tables.items()
        ],
        how="horizontal",
    )
    wide.write_csv(folder / "wide.csv")
    with zipfile.ZipFile(folder / "xsens.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, table in tables.items():
            archive.writestr(f"MT_0120_{name}.txt", xsens(table))
    layouts = {"long CSV": "long.csv", "long Parquet": "long.parquet", "wide CSV": "wide.csv",
               "Xsens text in a zip": "xsens.zip"}  # fmt: skip
    return {layout: folder / file for layout, file in layouts.items()}


def xsens(table: pl.DataFrame) -> str:
    """MT Manager's text, its counter wrapping and its date columns empty."""
    count = pl.int_range(pl.len())
    out = table.select(
        (count % 65_536).alias("PacketCounter"),
        (count * (10_000 // RATE_HZ)).alias("SampleTimeFine"),
        *(pl.lit("").alias(name) for name in ("Year", "Month", "Day", "Second")),
        *(
            pl.col(f"{what.lower()}_{axis}").alias(f"{what}_{axis.upper()}")
            for what in ("Acc", "Gyr")
            for axis in "xyz"
        ),
    )
    header = f"// Update Rate: {RATE_HZ}.0Hz\n// Firmware Version: 4.0.2\n"
    return header + out.write_csv(separator="\t", quote_style="never")


def bare(path: Path) -> object:
    """The file's numbers and nothing else."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return [
                pl.read_csv(archive.read(name), separator="\t", comment_prefix="//")
                for name in archive.namelist()
            ]
    return pl.read_csv(path)


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of all threads, and what came of it."""
    start = time.process_time()
    done = work()
    return time.process_time() - start, done


if __name__ == "__main__":
    main()
