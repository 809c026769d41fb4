"""News of jobs through a real topic, and what it does not say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from cis_tasks import aws, notifications
from cis_tasks.execution import execute
from cis_tasks.local.cloud import Cloud
from cis_tasks.notifications import FORM
from cis_tasks.pipelines import Pipeline
from cis_tasks.settings import settings
from support import script
from support.cloud import eventually, forget
from support.sessions import Scripted, cis, scripted_worker, without_lambda
from support.topics import Subscriber

SCHEMA = Path(__file__).parents[1] / "docs/notifications.schema.json"
NAME = "Jürgen-M"


@pytest.fixture
def topics(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    sns, made = boto3.client("sns"), {}
    for part in ("jobs", "dead_letters"):
        arn = sns.create_topic(Name=f"{cloud.stack.name}-{part}")["TopicArn"]
        made[f"CIS_TOPIC_{part.upper()}"] = arn
        monkeypatch.setenv(f"CIS_TOPIC_{part.upper()}", arn)
    forget()
    yield made
    monkeypatch.undo()
    forget()


def test_jobs_that_end_and_are_given_up_are_told_once_without_a_name(
    cloud: Cloud, topics: dict[str, str], tmp_path: Path
) -> None:
    everything = Subscriber(topics["CIS_TOPIC_JOBS"], "all")
    failures = Subscriber(topics["CIS_TOPIC_JOBS"], "failed", {"kind": ["job_failed"]})
    dead = Subscriber(topics["CIS_TOPIC_DEAD_LETTERS"], "dead")
    with scripted_worker(cloud, tmp_path, CIS_MAX_ATTEMPTS="1", **topics):
        done = Scripted(cloud, tmp_path, NAME).upload()
        bad = Scripted(cloud, tmp_path, f"{NAME}2", bad=True).upload()
        hopeless = Scripted(cloud, tmp_path, f"{NAME}3", fail=99).upload()
        eventually(lambda: len(everything.hear()) == 2 and dead.hear())
        eventually(lambda: cloud.queue_counts()["spine"].dead == 1)
        told = {one["job_id"]: one for one in everything.hear()}
    assert told[done.job.id]["kind"] == "job_succeeded"
    assert told[bad.job.id]["kind"] == "job_failed"
    assert told[bad.job.id]["code"] == "script_bad"
    assert [one["job_id"] for one in eventually(failures.hear)] == [bad.job.id]
    [given_up] = dead.hear()
    assert (given_up["kind"], given_up["job_id"]) == ("job_given_up", hopeless.job.id)
    assert hopeless.runs == 3  # three receives, one notification
    assert len(everything.hear()) == 2
    for one in (*everything.heard, *dead.heard):
        FORM.validate_python(one)
        assert NAME not in json.dumps(one, ensure_ascii=False)


@pytest.fixture
def here(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scripted], None]:
    """Does a job in this process as a worker does."""
    without_lambda(cloud)
    monkeypatch.setattr(Pipeline, "load", lambda self: script.run)

    def do(session: Scripted) -> None:
        bucket = settings().output_bucket
        execute(aws.s3(), bucket, session.job, ended=notifications.job_ended)

    return do


def test_names_are_told_where_they_are_asked_for(
    cloud: Cloud,
    here: Callable[[Scripted], None],
    topics: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CIS_SHOW_NAMES", "1")
    forget()
    subscriber = Subscriber(topics["CIS_TOPIC_JOBS"], "all")
    session = Scripted(cloud, tmp_path, NAME).upload()
    for _ in range(2):  # the second answers from the record, which is no news
        here(session)
    [told] = eventually(subscriber.hear)
    assert told["name"] == NAME
    assert told["manifest"].endswith(f"spine/{NAME}/{session.job.id}/manifest.json")
    session.upload()
    cis("cancel", session.job.id)
    assert [
        one.get("code")
        for one in eventually(lambda: len(subscriber.hear()) == 2 and subscriber.heard)
    ] == [None, "cancelled"]


def test_a_topic_that_is_not_there_fails_no_job(
    cloud: Cloud,
    here: Callable[[Scripted], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CIS_TOPIC_JOBS", "arn:aws:sns:us-east-1:000000000000:nowhere")
    forget()
    session = Scripted(cloud, tmp_path, "s").upload()
    here(session)
    assert [manifest["status"] for manifest in session.manifests()] == ["succeeded"]
    assert "notification_not_sent" in capsys.readouterr().out


def test_the_schema_in_the_docs_is_the_code_s() -> None:
    assert json.loads(SCHEMA.read_text()) == FORM.json_schema()
