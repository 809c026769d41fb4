"""``cis forget``: nothing of a session is left, and nothing else is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from cis_tasks import aws
from cis_tasks.errors import PermanentError
from cis_tasks.execution import execute
from cis_tasks.local.cloud import Cloud
from cis_tasks.operations import alike
from cis_tasks.pipelines import Pipeline
from cis_tasks.publish import message_for, publish
from cis_tasks.settings import settings
from cis_tasks.web import records, webhooks
from support import script
from support.sessions import Scripted, cis, cis_json, without_lambda

NAME = "lab/Jürgen M"
UNREADABLE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def quiet(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    without_lambda(cloud)
    monkeypatch.setattr(Pipeline, "load", lambda self: script.run)
    return cloud


def everything(cloud: Cloud) -> str:
    """All that the buckets, the dead letters and the undelivered events hold, as one text."""
    s3, sqs, texts = boto3.client("s3"), boto3.client("sqs"), list[Any]()
    for bucket in (cloud.stack.input_bucket, cloud.stack.output_bucket):
        listed = s3.list_object_versions(Bucket=bucket)
        texts += [item["Key"] for item in listed.get("DeleteMarkers", [])]
        for item in listed.get("Versions", []):
            where = {"Bucket": bucket, "Key": item["Key"], "VersionId": item["VersionId"]}
            texts += [item["Key"], s3.get_object(**where)["Body"].read().decode()]
    for url in (cloud.stack.dead_letter_urls["spine"], cloud.stack.undelivered_url):
        got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        texts += [message["Body"] for message in got.get("Messages", [])]
    return json.dumps(texts, ensure_ascii=False)


def fill(cloud: Cloud, folder: Path, name: str) -> Scripted:
    """Leave every kind of trace of a session."""
    from cis_tasks.app import app

    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    session = Scripted(cloud, folder, name).upload()
    session.put(f"sensor_data/{name}.json", b"{}")
    execute(aws.s3(), settings().output_bucket, session.job)
    session.upload()  # a second version, whose job only has a state
    app.backend.store_result(session.job.id, None, "STARTED", request=request_of(session))
    part = f"{settings().results_prefix}chord-unlock-g/part/00000000-{session.job.id}"
    s3.put_object(Bucket=cloud.stack.output_bucket, Key=part, Body=name.encode())
    note_of_web(session)
    s3.delete_object(Bucket=cloud.stack.input_bucket, Key=f"sensor_data/{name}.json")
    session.upload()  # a third, whose job is dead
    message = message_for(session.job)
    sqs.send_message(
        QueueUrl=cloud.stack.dead_letter_urls["spine"],
        MessageBody=message.body,
        MessageGroupId=message.group,
        MessageDeduplicationId=message.dedup,
    )
    record = {"s3": {"bucket": {"name": "b"}, "object": {"key": f"video_footage/{name}.mp4"}}}
    event = {"requestPayload": {"Records": [{"eventName": "ObjectCreated:Put", **record}]}}
    sqs.send_message(QueueUrl=cloud.stack.undelivered_url, MessageBody=json.dumps(event))
    return session


def note_of_web(session: Scripted) -> None:
    """What the web tier notes of a job that left a state, and of one that left nothing else."""
    from cis_tasks.app import app

    s3, bucket = boto3.client("s3"), session.cloud.stack.output_bucket
    noted = records.Records(app.backend.objects)
    for job in (session.job, replace(session.job, nonce="again")):
        for _ in range(2):  # two versions, where the bucket keeps them
            noted.write(records.Record.now(job, "request"))
        webhook = webhooks.Webhook(f"https://clinic.example/{session.name}.", job.id)
        s3.put_object(Bucket=bucket, Key=f"{webhooks.PREFIX}{webhook.key}", Body=webhook.to_json())


def request_of(session: Scripted) -> Any:
    from celery.app.task import Context

    kwargs = {"job": session.job.to_dict()}
    return Context(id=session.job.id, task="cis_tasks.calibrate_spine", args=[], kwargs=kwargs)


def test_forget_deletes_every_trace_proves_it_and_touches_nobody_else(
    quiet: Cloud, tmp_path: Path
) -> None:
    others = [fill(quiet, tmp_path, name) for name in (f"{NAME}/2", f"{NAME}2", "lab")]
    others_before = [cis_json("forget", other.name, "--dry-run") for other in others]
    fill(quiet, tmp_path, NAME)
    before = cis_json("forget", NAME, "--dry-run")
    for part in ("inputs", "outputs", "states", "records", "dead", "events"):
        assert before[part], part
    assert before["gone"] is False
    with pytest.raises(PermanentError, match="Nobody is at the terminal"):
        cis("forget", NAME)
    assert cis_json("forget", NAME, "--dry-run") == before
    told = cis("forget", NAME, "--yes").stdout
    assert f"nothing is kept of {NAME}" in told
    for form in (f"{NAME}.", f"{NAME}/latest", f'"name": "{NAME}"', f'"{NAME}"'):
        assert form not in everything(quiet)
    assert [cis_json("forget", other.name, "--dry-run") for other in others] == others_before


def test_while_a_queue_holds_messages_nothing_is_proved(quiet: Cloud, tmp_path: Path) -> None:
    session = Scripted(quiet, tmp_path, "s").upload()
    publish(boto3.client("sqs"), quiet.stack.queue_urls["spine"], session.job)
    told = cis("forget", "s", "--yes", code=1).stdout
    assert "may be of it" in told
    assert "s/" not in everything(quiet)
    assert "may be of it" in cis("forget", "s", "--dry-run", code=1).stdout
    boto3.client("sqs").purge_queue(QueueUrl=quiet.stack.queue_urls["spine"])
    assert cis_json("forget", "s", "--yes", code=1)["gone"] is True  # it was forgotten before


def test_what_only_the_web_tier_noted_is_forgotten_even_where_its_record_was_deleted(
    quiet: Cloud, tmp_path: Path
) -> None:
    s3, bucket = boto3.client("s3"), quiet.stack.output_bucket
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    session = Scripted(quiet, tmp_path, "walk").upload()
    note_of_web(session)
    for item in s3.list_objects_v2(Bucket=bucket, Prefix=records.PREFIX)["Contents"]:
        s3.delete_object(Bucket=bucket, Key=item["Key"])  # as a lifecycle rule does
    s3.put_object(Bucket=bucket, Key=f"{records.PREFIX}{UNREADABLE}.json", Body=b"{")
    # For each of two jobs: two versions and a delete marker of its record, and its webhook.
    assert cis_json("forget", "walk", "--dry-run")["records"] == 2 * (2 + 1 + 1)
    assert cis_json("forget", "walk", "--yes")["gone"] is True
    assert "walk" not in everything(quiet)
    assert UNREADABLE in everything(quiet)


def test_name_of_nothing_is_no_proof_and_names_that_end_so_are_told(
    quiet: Cloud, tmp_path: Path
) -> None:
    sent = "20260314T091500-1f2e3d4c5b6a7988/walk"
    only_output, only_old = "b/walk", "c/walk"
    Scripted(quiet, tmp_path, sent).upload()
    Scripted(quiet, tmp_path, "a/sidewalk").upload()
    s3 = boto3.client("s3")
    for name in (only_output, f"{only_output}/deeper"):
        key = f"spine/{name}/{UNREADABLE}/manifest.json"
        s3.put_object(Bucket=quiet.stack.output_bucket, Key=key, Body=b"{}")
    Scripted(quiet, tmp_path, only_old).upload()
    for key in (f"sensor_data/{only_old}.csv", f"video_footage/{only_old}.mp4"):
        s3.delete_object(Bucket=quiet.stack.input_bucket, Key=key)
    before = everything(quiet)
    for arguments in (("--dry-run",), ("--yes",), ()):
        told = cis("forget", "walk", *arguments, code=1).stdout
        assert "Nothing was found of walk" in told
        assert "nothing is kept" not in told
    named = cis_json("forget", "walk", "--yes", code=1)
    assert named["alike"] == [sent, only_output, only_old]
    assert named["alike_complete"] is True
    assert sent in told
    assert everything(quiet) == before
    assert cis_json("forget", sent, "--yes")["gone"] is True


def test_only_so_many_keys_are_looked_at_for_names_that_end_so(
    quiet: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scripted(quiet, tmp_path, "a/walk").upload()
    s3, bucket = boto3.client("s3"), quiet.stack.input_bucket
    monkeypatch.setattr(alike, "MAX_PAGES", 1)
    for number in range(1000):
        s3.put_object(Bucket=bucket, Key=f"sensor_data/b/{number}.csv", Body=b"")
    named = cis_json("forget", "walk", "--dry-run", code=1)
    assert named["alike"] == ["a/walk"]
    assert named["alike_complete"] is False
    assert "there may be more" in cis("forget", "walk", "--dry-run", code=1).stdout
