from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from made_up import table_of

from cis_tasks.errors import PermanentError
from cis_tasks.spine.readers import read_recording


@pytest.fixture(scope="module")
def made(session):
    return session(sensors=2, duration_s=3, rates_hz=(100.0, 60.0))


@pytest.fixture
def table(made) -> pl.DataFrame:
    return table_of(made.recording)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "walk.csv"


def refusal(path) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        read_recording(path)
    assert path.name in caught.value.message
    assert caught.value.hint
    return caught.value


def assert_same(recording, made):
    assert recording.tracks.keys() == made.recording.tracks.keys()
    for name, track in recording.tracks.items():
        true = made.recording.tracks[name]
        np.testing.assert_allclose(track.time_s, true.time_s)
        np.testing.assert_allclose(track.gyr, true.gyr)
        np.testing.assert_allclose(track.acc, true.acc)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_any_usual_delimiter_is_read(made, table, path, separator):
    table.write_csv(path, separator=separator)
    assert_same(read_recording(path), made)


def test_decimal_commas_are_read(made, table, path):
    table.write_csv(path, separator=";", decimal_comma=True)
    assert_same(read_recording(path), made)


def test_parquet_is_read(made, table, tmp_path):
    table.write_parquet(tmp_path / "walk.parquet")
    assert_same(read_recording(tmp_path / "walk.parquet"), made)


def test_readings_of_the_sensors_may_be_mixed_and_further_columns_follow(made, table, path):
    table.sort("timestamp_s").with_columns(mag_x=pl.lit(1.0)).write_csv(path)
    recording = read_recording(path)
    assert_same(recording, made)
    assert recording.warnings == ()


def test_comments_byte_order_mark_windows_lines_and_spaces_do_not_matter(made, table, path):
    text = table.write_csv().replace(",", " , ").replace("\n", "\r\n")
    path.write_bytes(("\ufeff// General information:\r\n# made up\r\n\r\n" + text).encode())
    assert_same(read_recording(path), made)


@pytest.mark.parametrize("content", [b"", b"  \n\n"])
def test_an_empty_file_is_named(path, content):
    path.write_bytes(content)
    assert refusal(path).code == "sensors_empty"


def test_a_header_alone_is_empty(table, path):
    table.clear().write_csv(path)
    assert refusal(path).code == "sensors_empty"


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff\xd8", b"a,b\n\0\0\0\0"])
def test_bytes_that_are_no_text_are_named(path, content):
    path.write_bytes(content)
    assert refusal(path).code == "sensors_not_text"


def test_a_broken_parquet_is_named(tmp_path):
    path = tmp_path / "walk.parquet"
    path.write_bytes(b"PAR1 but no more")
    assert refusal(path).code == "sensors_unreadable"


def test_another_format_says_what_is_accepted(tmp_path):
    path = tmp_path / "walk.xlsx"
    path.write_bytes(b"PK")
    error = refusal(path)
    assert error.code == "sensors_format"
    assert ".csv" in error.hint
    assert ".parquet" in error.hint


def test_missing_columns_are_named_with_those_that_are_there(table, path):
    table.rename({"gyr_y": "yaw"}).drop("acc_z").write_csv(path)
    error = refusal(path)
    assert error.code == "sensors_columns"
    assert "gyr_y, acc_z" in error.message
    assert "yaw" in error.message


def test_a_few_rows_without_a_number_are_dropped_with_a_warning(made, table, path):
    rows = np.zeros(table.height, bool)
    rows[[5, 9]] = True
    lacking = pl.when(pl.Series(rows)).then(None).otherwise(pl.col("gyr_x")).alias("gyr_x")
    table.with_columns(lacking).write_csv(path, null_value="NaN")
    recording = read_recording(path)
    assert len(recording.tracks["imu1"].time_s) == len(made.recording.tracks["imu1"].time_s) - 2
    assert any("2 rows of sensor imu1" in warning for warning in recording.warnings)
    assert np.isfinite(recording.tracks["imu1"].gyr).all()


def test_a_last_line_that_was_cut_off_is_dropped_with_a_warning(table, path):
    path.write_text(table.write_csv().rsplit(",", 4)[0])
    assert any("1 rows of sensor imu2" in warning for warning in read_recording(path).warnings)


def test_too_many_rows_without_a_number_are_refused(table, path):
    lacking = pl.when(pl.int_range(pl.len()) % 5 == 0).then(None).otherwise(pl.col("gyr_z"))
    table.with_columns(lacking.alias("gyr_z")).write_csv(path)
    error = refusal(path)
    assert error.code == "sensors_bad_rows"
    assert "imu1" in error.message


def test_a_missing_accelerometer_value_costs_no_gyroscope_reading(made, table, path):
    lacking = pl.when(pl.int_range(pl.len()) % 2 == 0).then(None).otherwise(pl.col("acc_x"))
    table.with_columns(lacking.alias("acc_x")).write_csv(path)
    recording = read_recording(path)
    assert len(recording.tracks["imu1"].time_s) == len(made.recording.tracks["imu1"].time_s)


def test_repeated_times_are_dropped_with_a_warning(made, table, path):
    pl.concat([table[:7], table[6:]]).write_csv(path)
    recording = read_recording(path)
    np.testing.assert_allclose(
        recording.tracks["imu1"].time_s, made.recording.tracks["imu1"].time_s
    )
    assert any("repeat a time" in warning for warning in recording.warnings)


def test_a_part_that_is_there_twice_is_read_once(made, table, path):
    one = table.filter(pl.col("sensor_id") == "imu1")
    pl.concat([one[:50], one[20:]]).write_csv(path)
    recording = read_recording(path)
    np.testing.assert_allclose(
        recording.tracks["imu1"].time_s, made.recording.tracks["imu1"].time_s
    )
    assert any("30 rows of sensor imu1 repeat" in warning for warning in recording.warnings)


def test_readings_that_came_late_are_put_in_order(made, table, path):
    order = list(range(table.height))
    order[10:14] = [12, 10, 13, 11]
    table[order].write_csv(path)
    recording = read_recording(path)
    assert_same(recording, made)
    assert any("imu1 were out of order" in warning for warning in recording.warnings)


def restarted(table, at: float) -> pl.DataFrame:
    """The first sensor's readings, its clock set back to zero after a share ``at`` of them."""
    one = table.filter(pl.col("sensor_id") == "imu1").with_columns(pl.col("timestamp_s") + 60)
    k = int(at * one.height)
    return pl.concat([one[:k], one[k:].with_columns(pl.col("timestamp_s") - 60)])


def test_a_clock_that_restarted_at_the_end_leaves_the_long_part(table, path):
    changed = restarted(table, 0.9)
    changed.write_csv(path)
    recording = read_recording(path)
    kept = recording.tracks["imu1"].time_s
    np.testing.assert_allclose(kept, changed["timestamp_s"][: len(kept)])
    assert len(kept) == int(0.9 * changed.height)
    assert any("restarted" in warning for warning in recording.warnings)


def test_a_clock_that_restarted_in_the_middle_is_refused_with_the_place(table, path):
    changed = restarted(table, 0.5)
    changed.write_csv(path)
    error = refusal(path)
    assert error.code == "sensors_time_order"
    k = changed.height // 2
    at = changed["timestamp_s"]
    assert f"{at[k - 1]:.6f} to {at[k]:.6f}" in error.message


def test_sensor_ids_that_are_numbers_are_names_all_the_same(table, path):
    table.with_columns(sensor_id=pl.col("sensor_id").str.slice(3)).write_csv(path)
    assert set(read_recording(path).tracks) == {"1", "2"}


@pytest.mark.parametrize(("unit", "scale"), [("in g", 1 / 9.80665), ("in mg", 1000 / 9.80665)])
def test_an_accelerometer_in_g_is_recognised_and_named(table, path, unit, scale):
    table.with_columns(pl.col("acc_x", "acc_y", "acc_z") * scale).write_csv(path)
    error = refusal(path)
    assert error.code == "acc_in_g"
    assert f"{unit}," in error.message
    assert f"{1 / scale:.6g}" in error.hint


def test_a_rate_that_no_one_turns_at_is_in_degrees(table, path):
    table.with_columns(pl.col("gyr_x", "gyr_y", "gyr_z") * 180 / np.pi).write_csv(path)
    error = refusal(path)
    assert error.code == "gyro_in_degrees"
    assert "imu" in error.message


def test_a_single_reading_is_too_short(table, path):
    table[:1].write_csv(path)
    assert refusal(path).code == "sensors_too_short"


def test_an_absent_sensor_is_named_with_those_present(table, path):
    table.write_csv(path)
    with pytest.raises(PermanentError) as caught:
        read_recording(path).select(["imu2", "imu9"])
    assert caught.value.code == "sensor_absent"
    assert "imu9" in caught.value.message
    assert "imu1, imu2" in caught.value.message


@pytest.mark.parametrize(("scale", "unit"), [(1e3, "ms"), (1e6, "µs"), (1e9, "ns")])
def test_times_in_another_unit_are_recognised_and_named(table, path, scale, unit):
    table.with_columns(pl.col("timestamp_s") * scale).write_csv(path)
    error = refusal(path)
    assert error.code == "time_not_in_seconds"
    assert f"are {unit}, not seconds" in error.message
    assert f"{scale:.0f}" in error.hint


def test_a_sensor_that_is_too_slow_is_named(table, path):
    table.filter(pl.int_range(pl.len()) % 30 == 0).write_csv(path)
    assert refusal(path).code == "sensors_too_slow"


def test_dates_are_no_times(table, tmp_path):
    path = tmp_path / "walk.parquet"
    table.with_columns(pl.col("timestamp_s").cast(pl.Int64).cast(pl.Datetime("us"))).write_parquet(
        path
    )
    error = refusal(path)
    assert error.code == "sensors_unreadable"
    assert "timestamp_s" in error.message
