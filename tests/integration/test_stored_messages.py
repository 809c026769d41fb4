"""Messages that other versions have left in a queue are done by this one: upgrades may be rolling.

A message waits for as long as 14 days. Add one of each kind to ``tests/messages`` with every
version that writes another form, and delete none.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import boto3

from cis_tasks.jobs import Job, ObjectRef
from cis_tasks.local.cloud import Cloud
from cis_tasks.publish import message_for
from support.cloud import eventually
from support.sessions import Scripted, scripted_worker, without_lambda

MESSAGES = sorted((Path(__file__).parents[1] / "messages").glob("*.json"))


def filled(message: Any, values: dict[str, str]) -> Any:
    """The message with this test's bucket and versions in place of the stored names of them."""
    if isinstance(message, dict):
        return {key: filled(value, values) for key, value in message.items()}
    if isinstance(message, list):
        return [filled(value, values) for value in message]
    return values.get(message, message) if isinstance(message, str) else message


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def test_stored_messages_are_done(cloud: Cloud, tmp_path: Path) -> None:
    without_lambda(cloud)
    session = Scripted(cloud, tmp_path, "stored").upload()
    values = {
        ref: session.job.inputs[ref.lower()].version for ref in ("SENSOR_DATA", "VIDEO_FOOTAGE")
    }
    values["BUCKET"] = cloud.stack.input_bucket
    sqs, url, wanted = boto3.client("sqs"), cloud.stack.queue_urls["spine"], set[str]()
    for number, path in enumerate(MESSAGES):
        message = filled(json.loads(path.read_text())["message"], values)
        message["body"][1]["job"]["nonce"] = path.stem  # each a job of its own
        message["headers"]["id"] = message["properties"]["correlation_id"] = f"{number:032x}"
        sqs.send_message(
            QueueUrl=url,
            MessageBody=encoded({**message, "body": encoded(message["body"])}),
            MessageGroupId=f"g{number}",
            MessageDeduplicationId=path.stem,
        )
        wanted.add(path.stem)
    with scripted_worker(cloud, tmp_path) as worker:
        manifests = eventually(lambda: len(m := session.manifests()) == len(wanted) and m)
        eventually(lambda: sum(vars(cloud.queue_counts()["spine"]).values()) == 0)
        log = worker.log.read_text()
    assert {manifest["job"]["nonce"] for manifest in manifests} == wanted
    assert {manifest["status"] for manifest in manifests} == {"succeeded"}
    assert {tuple(m["result"]["params"]["k"]) for m in manifests} == {(1, "ü")}
    # Celery puts a task's result into the log and into Flower.
    assert "Answer(job_id=" in log
    assert "spine/stored/" not in log


def test_the_form_that_is_written_now_is_among_the_stored_ones() -> None:
    """Who changes it stores one of the new form."""
    ref = ObjectRef("BUCKET", "k", "v", versioned=True)
    now = json.loads(base64.b64decode(message_for(Job("spine", "1", "n", {"a": ref})).body))
    now["body"] = json.loads(base64.b64decode(now["body"]))
    stored = [json.loads(path.read_text())["message"] for path in MESSAGES]
    assert form(now) in [form(message) for message in stored]


def form(message: dict[str, Any]) -> list[list[str]]:
    """The fields of each of its parts."""
    job = message["body"][1]["job"]
    parts = (message, message["headers"], message["properties"], message["body"][2], job)
    return [sorted(part) for part in parts]
