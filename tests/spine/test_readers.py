"""Every layout of a recording gives the same tracks."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import table_of

from cis_tasks.errors import PermanentError
from cis_tasks.spine.readers import read_recording
from cis_tasks.spine.readers.clocks import align_wraps, unwrap
from cis_tasks.spine.readers.columns import find_layout
from cis_tasks.spine.rig import RecordingForm, Rig, Tag

DATA = Path("../shared/data")
AXES = "xyz"
MT_HEADER = (
    "// Start Time: Unknown\n// Update Rate: 100.0Hz\n// Filter Profile: human (46.1)\n"
    "// Firmware Version: 4.0.2\n"
)
DOT_HEADER = (
    "sep=,\nDeviceTag:,{tag},,,,\nFirmwareVersion:,3.0.0,,\nSyncStatus:,{sync},,\n"
    "OutputRate:,60Hz,,\nMeasurement Mode:,Rate quantities,,\nStartTime:,2025-07-11,,\n\n"
)


@pytest.fixture(scope="module")
def made(session):
    return session(sensors=2, duration_s=4, rates_hz=(100.0,), gyro_sd=0.003)


@pytest.fixture(scope="module")
def table(made) -> pl.DataFrame:
    return table_of(made.recording)


@pytest.fixture(scope="module")
def rig(made) -> Rig:
    return made.rig


def with_form(rig: Rig, **form) -> Rig:
    return rig.model_copy(update={"recording": RecordingForm(**form)})


def assert_same(recording, made, *, offset_s=0.0, atol=1e-6):
    assert set(recording.tracks) == set(made.recording.tracks)
    for name, track in recording.tracks.items():
        true = made.recording.tracks[name]
        np.testing.assert_allclose(track.time_s - offset_s, true.time_s, atol=6e-5)
        np.testing.assert_allclose(track.gyr, true.gyr, atol=atol)
        np.testing.assert_allclose(track.acc, true.acc, atol=1e-4)


def refusal(path, rig=None) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        read_recording(path, rig=rig)
    assert caught.value.hint
    return caught.value


def of(table, sensor) -> pl.DataFrame:
    return table.filter(pl.col("sensor_id") == sensor).drop("sensor_id")


def zipped(path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


# One file per sensor


def test_a_zip_of_one_file_per_sensor_is_named_by_its_files(made, table, tmp_path):
    files = {f"export/{name}.csv": of(table, name).write_csv() for name in ("imu1", "imu2")}
    files["__MACOSX/export/._imu1.csv"] = b"\0\1"
    files["readme.pdf"] = b"%PDF"
    recording = read_recording(zipped(tmp_path / "walk.zip", files), rig=made.rig)
    assert_same(recording, made)
    assert recording.file == "walk.zip"


def test_a_folder_is_read_like_a_zip(made, table, tmp_path):
    for name in ("imu1", "imu2"):
        of(table, name).write_parquet(tmp_path / f"{name}.parquet")
    assert_same(read_recording(tmp_path, rig=made.rig), made)


@pytest.mark.parametrize("damage", ["cut", "flipped", "password"])
def test_a_damaged_zip_is_named(table, tmp_path, damage):
    path = zipped(tmp_path / "walk.zip", {"imu1.csv": table.write_csv()})
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    else:
        central = data.rindex(b"PK\1\2")
        data[6] |= 1
        data[central + 8] |= 1
    path.write_bytes(data)
    error = refusal(path)
    assert error.code == "sensors_unreadable"
    assert "walk.zip" in error.message


def test_a_zip_without_tables_says_what_belongs_into_it(tmp_path):
    error = refusal(zipped(tmp_path / "walk.zip", {"notes.md": "hi"}))
    assert error.code == "sensors_empty"
    assert ".parquet" in error.hint


def test_a_sensor_that_is_there_twice_is_named_with_both_files(table, tmp_path):
    content = table.write_csv()
    error = refusal(zipped(tmp_path / "walk.zip", {"a.csv": content, "b.csv": content}))
    assert error.code == "sensor_twice"
    assert "a.csv" in error.message
    assert "b.csv" in error.message


# Xsens MT Manager


def xsens(rows: pl.DataFrame, delimiter: str, *, times: bool = True, nan: str = "") -> str:
    """What MT Manager writes: 16-bit counter, ticks of 0.1 ms, empty date columns."""
    n = rows.height
    start = int(1e4 * (rows["timestamp_s"][0] + 100))
    ticks = (start + 100 * np.arange(n)) % 2**32
    columns = {
        "PacketCounter": [f"{(65_500 + k) % 65_536:05d}" for k in range(n)],
        "SampleTimeFine": [str(t) for t in ticks] if times else [nan] * n,
        **{name: [nan] * n for name in ("Year", "Month", "Day", "Second")},
        **{f"Acc_{a.upper()}": [f"{v:.6f}" for v in rows[f"acc_{a}"]] for a in AXES},
        **{f"Gyr_{a.upper()}": [f"{v:.7f}" for v in rows[f"gyr_{a}"]] for a in AXES},
        "Mat[1][1]": ["0.5"] * n,
    }
    lines = [delimiter.join(columns)]
    lines += [delimiter.join(cells) for cells in zip(*columns.values(), strict=True)]
    return MT_HEADER + "\n".join(lines) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", " "])
@pytest.mark.parametrize("nan", ["", "NaN"])
def test_xsens_text_is_read_with_every_delimiter(made, table, tmp_path, delimiter, nan):
    files = {
        f"MT_0120_{name}.txt": xsens(of(table, name), delimiter, nan=nan)
        for name in ("imu1", "imu2")
    }
    recording = read_recording(zipped(tmp_path / "walk.zip", files), rig=made.rig)
    assert_same(recording, made, offset_s=100.0)
    assert recording.warnings == ()


def test_xsens_text_without_times_is_timed_by_its_counter(made, table, tmp_path):
    path = tmp_path / "MT_0120_imu1.txt"
    path.write_text(xsens(of(table, "imu1"), "\t", times=False))
    track = read_recording(path).tracks["imu1"]
    assert track.rate_hz == pytest.approx(100)
    np.testing.assert_allclose(track.time_s[0], 655.0)
    np.testing.assert_allclose(np.diff(track.time_s), 0.01, atol=1e-9)


def test_readings_that_were_lost_leave_a_hole_and_are_told(made, table, tmp_path):
    lines = xsens(of(table, "imu1"), ";", times=False).splitlines()
    del lines[60:80]
    path = tmp_path / "MT_imu1.txt"
    path.write_text("\n".join(lines))
    recording = read_recording(path)
    assert np.diff(recording.tracks["imu1"].time_s).max() == pytest.approx(0.21)
    assert any("lost 20 of" in warning for warning in recording.warnings)


def test_a_counter_without_rate_asks_for_it(made, table, tmp_path):
    text = xsens(of(table, "imu1"), ",", times=False).replace("// Update Rate: 100.0Hz\n", "")
    path = tmp_path / "MT_imu1.txt"
    path.write_text(text)
    error = refusal(path)
    assert error.code == "rate_unknown"
    assert "rate_hz" in error.hint
    told = read_recording(path, rig=with_form(made.rig, rate_hz=100.0))
    assert told.tracks["imu1"].rate_hz == pytest.approx(100)


def test_orientation_alone_is_not_enough(tmp_path):
    path = tmp_path / "MT_imu1.txt"
    path.write_text("PacketCounter,SampleTimeFine,Quat_W,Quat_X,Quat_Y,Quat_Z\n1,1,1,0,0,0\n")
    error = refusal(path)
    assert error.code == "sensors_columns"
    assert "Gyr" in error.hint


# Movella DOT


def dot(rows: pl.DataFrame, tag: str, *, sync: str = "Synced", start: int = 2**32 - 10**6) -> str:
    """What the Movella DOT app writes: °/s, ticks of 1 µs."""
    ticks = (start + np.rint(1e6 * (rows["timestamp_s"] - rows["timestamp_s"][0]))) % 2**32
    columns = {
        "PacketCounter": np.arange(rows.height) + 1,
        "SampleTimeFine": ticks.cast(pl.Int64),
        **{f"Acc_{a.upper()}": rows[f"acc_{a}"] for a in AXES},
        **{f"Gyr_{a.upper()}": np.rad2deg(rows[f"gyr_{a}"].to_numpy()) for a in AXES},
    }
    return DOT_HEADER.format(tag=tag, sync=sync) + pl.DataFrame(columns).write_csv()


def test_dot_files_are_in_degrees_and_microseconds_that_wrap(made, table, tmp_path):
    names = ("imu1", "imu2")
    files = {f"{k}_2025.csv": dot(of(table, n), n) for k, n in enumerate(names)}
    recording = read_recording(zipped(tmp_path / "walk.zip", files), rig=made.rig)
    first = made.recording.tracks["imu1"].time_s[0]
    assert_same(recording, made, offset_s=(2**32 - 10**6) * 1e-6 - first)


def test_dots_that_were_not_synchronised_are_refused(table, tmp_path):
    path = tmp_path / "imu1.csv"
    path.write_text(dot(of(table, "imu1"), "imu1", sync="Un-synced"))
    assert refusal(path).code == "clocks_not_synced"


def test_without_a_header_ticks_and_units_are_inferred_and_said(made, table, tmp_path):
    path = tmp_path / "imu1.csv"
    path.write_text(dot(of(table, "imu1"), "imu1").partition("\n\n")[2])
    recording = read_recording(path)
    track, true = recording.tracks["imu1"], made.recording.tracks["imu1"]
    assert track.rate_hz == pytest.approx(100, rel=1e-3)
    np.testing.assert_allclose(track.gyr, true.gyr, atol=1e-6)
    assert any("taken as deg/s" in warning for warning in recording.warnings)


# Wide tables, other names, maps


def widened(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """One row per time, columns for each sensor, called by a pattern."""
    parts = []
    for sensor in ("imu1", "imu2"):
        rows = of(table, sensor)
        names = {
            f"{what}_{a}": name.format(sensor=sensor, what=what, axis=a)
            for what in ("gyr", "acc")
            for a in AXES
        }
        parts.append(rows.drop("timestamp_s").rename(names))
    return pl.concat([of(table, "imu1").select("timestamp_s"), *parts], how="horizontal")


@pytest.mark.parametrize(
    "name",
    ["{sensor}_{what}_{axis}", "{what}_{axis}_{sensor}", "{sensor}.{what}.{axis}",
     "{sensor} {what} {axis}", "{sensor}:{what}{axis}"],
)  # fmt: skip
def test_wide_tables_are_read_by_their_columns_names(made, table, tmp_path, name):
    path = tmp_path / "walk.csv"
    widened(table, name).write_csv(path)
    assert_same(read_recording(path, rig=made.rig), made)


def test_a_wide_table_with_a_time_for_each_sensor(made, table, tmp_path):
    wide = widened(table, "{sensor}_{what}_{axis}").rename({"timestamp_s": "imu1_time_s"})
    wide = wide.with_columns(imu2_time_s=of(table, "imu2")["timestamp_s"] + 0.25)
    path = tmp_path / "walk.csv"
    wide.write_csv(path)
    found = read_recording(path, rig=made.rig).tracks
    np.testing.assert_allclose(found["imu2"].time_s - found["imu1"].time_s, 0.25, atol=1e-9)


@pytest.mark.parametrize(
    ("gyr", "acc", "unit"),
    [
        ("Gyroscope {axis} [deg/s]", "Accelerometer {axis} [g]", "deg/s"),
        ("gyro{axis} (°/s)", "acc{axis} (mG)", "deg/s"),
        ("Angular velocity {axis} (rad/s)", "Acceleration {axis} (m/s²)", "rad/s"),
        ("gyr_{axis}_dps", "acc_{axis}_m_s2", "deg/s"),
    ],
)
def test_units_in_the_header_are_followed(made, table, tmp_path, gyr, acc, unit):  # noqa: PLR0917
    rows = of(table, "imu1")
    force = (
        1 / 9.80665 * (1000 if "mG" in acc else 1) if "m/s" not in acc and "m_s" not in acc else 1
    )
    turn = 180 / np.pi if unit == "deg/s" else 1
    columns = {"Time (ms)": rows["timestamp_s"] * 1e3}
    for a in AXES:
        columns[gyr.format(axis=a.upper())] = rows[f"gyr_{a}"] * turn
        columns[acc.format(axis=a.upper())] = rows[f"acc_{a}"] * force
    path = tmp_path / "imu1.csv"
    path.write_bytes(pl.DataFrame(columns).write_csv().encode("cp1252"))
    recording = read_recording(path)
    track, true = recording.tracks["imu1"], made.recording.tracks["imu1"]
    np.testing.assert_allclose(track.time_s, true.time_s, atol=1e-9)
    np.testing.assert_allclose(track.gyr, true.gyr, atol=1e-9)
    np.testing.assert_allclose(track.acc, true.acc, atol=1e-6)
    assert recording.warnings == ()


def test_a_line_of_units_below_the_header_is_followed(made, table, tmp_path):
    rows = of(table, "imu1")
    lines = rows.with_columns(pl.col("timestamp_s") * 1e3).write_csv(separator="\t").splitlines()
    lines[0] = "\t".join(
        ["Timestamp", *(f"Gyro_{a}" for a in "XYZ"), *(f"Accel_{a}" for a in "XYZ")]
    )
    lines.insert(1, "\t".join(["ms", *["rad/s"] * 3, *["m/(s^2)"] * 3]))
    path = tmp_path / "imu1.txt"
    path.write_text("\n".join(lines))
    recording = read_recording(path)
    np.testing.assert_allclose(
        recording.tracks["imu1"].time_s, made.recording.tracks["imu1"].time_s, atol=1e-9
    )
    assert recording.warnings == ()


def test_a_column_map_reads_what_no_one_would_guess(made, table, tmp_path):
    buffer = io.StringIO()
    buffer.write("Exported by a lab\nSubject;7\n\n")
    names = {f"gyr_{a}": f"{a.upper()} speed" for a in AXES} | {
        f"acc_{a}": f"{a.upper()} force" for a in AXES
    }
    wide = pl.concat(
        [of(table, "imu1").select(pl.col("timestamp_s").alias("Clock"))]
        + [
            of(table, s).drop("timestamp_s").rename({k: f"{s} / {n}" for k, n in names.items()})
            for s in ("imu1", "imu2")
        ],
        how="horizontal",
    )
    buffer.write(wide.write_csv(separator=";", decimal_comma=True))
    path = tmp_path / "lab.csv"
    path.write_text(buffer.getvalue())
    columns = {"time": "Clock"} | {key: f"{{sensor}} / {name}" for key, name in names.items()}
    rig = with_form(made.rig, columns=columns, gyr_unit="rad/s", acc_unit="m/s2", time_unit="s")
    recording = read_recording(path, rig=rig)
    assert_same(recording, made)
    assert recording.warnings == ()
    lacking = with_form(made.rig, columns=columns | {"gyr_z": "{sensor} / Q"})
    error = refusal(path, lacking)
    assert error.code == "sensors_columns"
    assert "{sensor} / Q" in error.message


def test_the_rigs_unit_is_taken_where_the_header_has_none(made, table, tmp_path):
    path = tmp_path / "walk.csv"
    wide = widened(table, "{sensor}_{what}_{axis}")
    wide.with_columns(pl.selectors.contains("gyr") * 180 / np.pi).write_csv(path)
    recording = read_recording(path, rig=with_form(made.rig, gyr_unit="deg/s"))
    assert_same(recording, made)
    assert recording.warnings == ()


def test_slow_turning_without_a_unit_is_asked_about_not_guessed(made, table, tmp_path):
    path = tmp_path / "walk.csv"
    still = pl.selectors.contains("gyr") * 1e-3, pl.selectors.contains("acc") * 0 + 5.66
    widened(table, "{sensor}_{what}_{axis}").with_columns(*still).write_csv(path)
    error = refusal(path, made.rig)
    assert error.code == "gyro_unit_unknown"
    assert "gyr_unit" in error.hint


@pytest.mark.parametrize("unit", ["rad/s", "deg/s"])
def test_gravity_tells_the_unit_of_real_gyroscopes(tmp_path, unit):
    source = DATA / "imu" / "broad_02_undisturbed_slow_rotation_B.npz"
    if not source.exists():
        pytest.skip(f"{source} is not here")
    data = np.load(source)
    part = slice(10_000, 20_000)
    gyr = data["gyr"][part] * (180 / np.pi if unit == "deg/s" else 1)
    columns = {"time_s": np.arange(len(gyr)) / float(data["fs"])}
    columns |= {f"gyro_{a}": gyr[:, k] for k, a in enumerate(AXES)}
    columns |= {f"accel_{a}": data["acc"][part][:, k] / 9.80665 for k, a in enumerate(AXES)}
    path = tmp_path / "hand.csv"
    pl.DataFrame(columns).write_csv(path)
    recording = read_recording(path)
    np.testing.assert_allclose(recording.tracks["hand"].gyr, data["gyr"][part], atol=1e-5)
    assert any(f"taken as {unit}" in warning for warning in recording.warnings)
    assert any("to be in g" in warning for warning in recording.warnings)


def test_a_fault_of_a_sensor_that_the_rig_does_not_name_is_no_error(made, table, tmp_path):
    broken = of(table, "imu2").with_columns(gyr_x=pl.lit(None, pl.Float64))
    files = {"imu1.csv": of(table, "imu1").write_csv(), "spare.csv": broken.write_csv()}
    path = zipped(tmp_path / "walk.zip", files)
    only = made.rig.model_copy(
        update={"tags": {0: Tag(sensor="imu1", segment="L1")}, "segment_order": ("L1",)}
    )
    assert set(read_recording(path, rig=only).tracks) == {"imu1"}
    assert refusal(path).code == "sensors_bad_rows"


@pytest.mark.parametrize(
    "name", ["FreeAcc_X", "Linear acceleration x", "Mag_X", "Quat_W", "Roll", "gyrate", "accuracy"]
)
def test_other_signals_are_not_taken_for_the_wanted_ones(name):
    layout = find_layout(["time", name], {})
    assert layout.devices == ()


# Clocks


@given(
    start=st.integers(0, 2**16 - 1),
    steps=st.lists(st.integers(1, 5000), min_size=1, max_size=200),
)
def test_a_clock_that_wraps_goes_on_whatever_was_lost(start, steps):
    true = start + np.concatenate([[0], np.cumsum(steps)]).astype(np.float64)
    np.testing.assert_array_equal(unwrap(true % 2**16, 2**16, 6000.0), true)


@given(
    start=st.integers(0, 2**32 - 1),
    late=st.lists(st.tuples(st.integers(0, 97), st.integers(1, 2)), max_size=8),
)
def test_packets_that_come_late_around_a_wrap_keep_their_times(start, late):
    true = start + 100.0 * np.arange(100)
    for at, by in late:
        true[[at, at + by]] = true[[at + by, at]]
    found = unwrap(true % 2**32, 2**32, 600_000.0)
    np.testing.assert_array_equal(found - found[0], true - true[0])


@given(st.integers(10_000_000, 2**32 - 1), st.integers(2, 50))
def test_a_clock_that_restarts_long_before_its_end_falls(before, after):
    values = np.array([before - 100.0, before, *(100.0 * np.arange(after))])
    hole = 2**32 - before
    found = unwrap(values, 2**32, 600_000.0)
    assert (found[2] < found[1]) == (hole > 600_000)


@settings(max_examples=30)
@given(st.floats(0, 2**32), st.floats(-30, 30))
def test_clocks_that_started_around_a_wrap_are_put_on_one_turn(first, apart_s):
    other = (first + apart_s * 1e4) % 2**32
    assert other + align_wraps(first, other, 2**32) - first == pytest.approx(apart_s * 1e4, abs=1)
