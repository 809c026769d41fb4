"""``cis forget``: nothing of a session is left, and nothing else is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from cis_tasks import aws
from cis_tasks.errors import PermanentError
from cis_tasks.execution import execute
from cis_tasks.local.cloud import Cloud
from cis_tasks.pipelines import Pipeline
from cis_tasks.publish import message_for, publish
from cis_tasks.settings import settings
from support import script
from support.sessions import Scripted, cis, cis_json, without_lambda

NAME = "lab/Jürgen M"


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
    for part in ("inputs", "outputs", "states", "dead", "events"):
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
    boto3.client("sqs").purge_queue(QueueUrl=quiet.stack.queue_urls["spine"])
    assert cis_json("forget", "s", "--yes")["gone"] is True
