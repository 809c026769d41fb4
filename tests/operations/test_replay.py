"""``cis replay``: the same bytes again, here, beside the record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

import cis_tasks.pipelines
from cis_tasks import aws
from cis_tasks.errors import PermanentError
from cis_tasks.execution import execute
from cis_tasks.local.cloud import Cloud
from cis_tasks.settings import settings
from support import script
from support.sessions import Scripted, cis, cis_json, without_lambda


@pytest.fixture(scope="module")
def place(cloud_of_module: Cloud) -> Cloud:
    without_lambda(cloud_of_module)
    return cloud_of_module


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cis_tasks.pipelines.Pipeline, "load", lambda self: script.run)


def done(session: Scripted) -> str:
    """Do the session's job as a worker does; its id."""
    job = session.job
    try:
        execute(aws.s3(), settings().output_bucket, job)
    except PermanentError:
        assert session.script.get("bad")
    return job.id


def test_a_replay_of_the_same_is_the_same_and_writes_nothing(place: Cloud, tmp_path: Path) -> None:
    session = Scripted(place, tmp_path, "same").upload()
    job_id = done(session)
    session.put("sensor_data/same.csv", b"another upload, of which the replay must not hear")
    before = boto3.client("s3").list_object_versions(Bucket=place.stack.output_bucket)["Versions"]
    told = cis_json("replay", job_id, "--to", str(tmp_path / "replay"))
    assert told["differences"] == []
    assert json.loads((tmp_path / "replay/in/sensor_data/same.csv").read_text()) == session.script
    assert (tmp_path / "replay/out/answer.txt").read_text() == "42\n"
    after = boto3.client("s3").list_object_versions(Bucket=place.stack.output_bucket)["Versions"]
    assert before == after
    assert "As in the record" in cis("replay", "same", "--to", str(tmp_path / "again")).stdout


def test_what_differs_is_told_and_the_exit_code_says_so(
    place: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = done(Scripted(place, tmp_path, "other").upload())

    def run(inputs, out, params, progress):  # type: ignore[no-untyped-def]
        outcome = script.run(inputs, out, params, progress)
        outcome.files[0].write_text("43\n")
        summary = {**outcome.summary, "answer": 43}
        return type(outcome)(summary, outcome.files, "script", "2")

    monkeypatch.setattr(cis_tasks.pipelines.Pipeline, "load", lambda self: run)
    told = cis_json("replay", job_id, "--to", str(tmp_path / "r"), code=1)
    found = {one["what"]: (one["stored"], one["replayed"]) for one in told["differences"]}
    assert found.keys() == {"result.answer", "model", "outputs.answer.txt"}
    assert found["result.answer"] == (42, 43)
    assert found["model"] == ("script 1", "script 2")
    loose = cis_json("replay", job_id, "--to", str(tmp_path / "l"), "--tolerance", "0.1", code=1)
    assert {one["what"] for one in loose["differences"]} == {"model", "outputs.answer.txt"}


def test_a_failed_job_fails_again_for_the_same_reason(place: Cloud, tmp_path: Path) -> None:
    job_id = done(Scripted(place, tmp_path, "bad", bad=True).upload())
    told = cis_json("replay", job_id, "--to", str(tmp_path / "r"))
    assert "script_bad" in told["error"]
    assert told["differences"] == []


def test_a_job_that_never_ended_is_found_by_its_inputs(place: Cloud, tmp_path: Path) -> None:
    job = Scripted(place, tmp_path, "waiting").upload().job
    told = cis_json("replay", job.id, "--to", str(tmp_path / "r"))
    assert told["record"] is False
    assert (tmp_path / "r/out/answer.txt").exists()


def test_a_job_that_nothing_describes_is_told(place: Cloud, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="Nothing describes the job"):
        cis("replay", "00000000-0000-0000-0000-000000000000", "--to", str(tmp_path))


def test_debug_stops_at_the_first_line_of_the_pipeline(place: Cloud, tmp_path: Path) -> None:
    job_id = done(Scripted(place, tmp_path, "debug").upload())
    program = "import support.scripted; from cis_tasks.commands.main import main; main()"
    asked = [sys.executable, "-c", program, "replay", job_id, "--debug", "--to", str(tmp_path)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    shell = subprocess.run(
        asked,
        env={**os.environ, "PYTHONPATH": path},
        input="p sorted(inputs)\nc\n",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "['sensor_data', 'video_footage']" in shell.stdout, shell.stderr
    assert "As in the record" in shell.stdout
