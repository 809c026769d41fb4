"""What a message shows to those who look at queues, events and traces."""

from __future__ import annotations

import base64
import json
from typing import Any

import boto3
import pytest

import cis_tasks
from cis_tasks import trace_context
from cis_tasks.jobs import Job, ObjectRef
from cis_tasks.local.cloud import Cloud
from cis_tasks.manifest import Answer
from cis_tasks.publish import message_for, message_kwargs

NAME = "lab/Juergen-M"


def job() -> Job:
    ref = ObjectRef("in", f"sensor_data/{NAME}.csv", "v1", versioned=True)
    return Job("spine", "1", NAME, {"sensor_data": ref})


def unpacked(body: str) -> dict[str, Any]:
    message = json.loads(base64.b64decode(body))
    return {**message, "body": json.loads(base64.b64decode(message["body"]))}


def celerys(cloud: Cloud) -> dict[str, Any]:
    """The job's message as Celery itself publishes it."""
    sqs, url = boto3.client("sqs"), cloud.stack.queue_urls["spine"]
    cis_tasks.calibrate_spine.apply_async(kwargs=message_kwargs(job()))
    [message] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    return unpacked(message["Body"])


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from one publish to the next."""
    headers = {k: v for k, v in message["headers"].items() if k not in {"origin", "traceparent"}}
    drop = {"delivery_tag", "reply_to"}
    properties = {k: v for k, v in message["properties"].items() if k not in drop}
    return {**message, "headers": headers, "properties": properties}


def test_only_the_body_and_the_group_name_the_session() -> None:
    message = unpacked(message_for(job()).body)
    assert NAME in json.dumps(message["body"])
    message["properties"].pop("MessageGroupId")
    assert NAME not in json.dumps([message["headers"], message["properties"]])


@pytest.mark.parametrize("variable", ["CIS_SHOW_NAMES", "CIS_TRACING"])
def test_both_publishers_do_what_the_settings_ask(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    ours, theirs = unpacked(message_for(job()).body), celerys(cloud)
    assert comparable(ours) == comparable(theirs)
    assert list(ours["headers"]) == list(theirs["headers"])
    traced = [trace_context.valid(each["headers"].get("traceparent")) for each in (ours, theirs)]
    assert all(traced) is (variable == "CIS_TRACING")
    assert (NAME in ours["headers"]["kwargsrepr"]) is (variable == "CIS_SHOW_NAMES")


def test_an_answer_shows_no_name_where_flower_and_logs_print_it() -> None:
    answer = Answer(job_id="1", pipeline="spine", name=NAME, result={}, files={}, manifest=NAME)
    assert NAME not in repr(answer)
    assert NAME in str(answer)
