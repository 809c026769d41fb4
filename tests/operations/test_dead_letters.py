"""``cis dlq`` on real queues; what is redriven is run by a real worker."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from cis_tasks import aws
from cis_tasks.errors import PermanentError
from cis_tasks.local.cloud import Cloud
from cis_tasks.operations import redrive
from cis_tasks.publish import message_for, publish
from support.cloud import eventually
from support.sessions import Scripted, cis, cis_json, scripted_worker, without_lambda


@pytest.fixture
def quiet(cloud: Cloud) -> Cloud:
    without_lambda(cloud)
    return cloud


def die(cloud: Cloud, session: Scripted) -> str:
    """Put a session's job into the dead letters as SQS does; its id."""
    message = message_for(session.job)
    boto3.client("sqs").send_message(
        QueueUrl=cloud.stack.dead_letter_urls["spine"],
        MessageBody=message.body,
        MessageGroupId=message.group,
        MessageDeduplicationId=message.dedup,
        MessageAttributes={"lab": {"DataType": "String", "StringValue": "1"}},
    )
    return message.job.id


def queued(cloud: Cloud) -> list[dict[str, Any]]:
    """Take what is in the job queue."""
    sqs, url = boto3.client("sqs"), cloud.stack.queue_urls["spine"]
    return sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=10,
        AttributeNames=["All"],
        MessageAttributeNames=["All"],
        WaitTimeSeconds=1,
    ).get("Messages", [])


def headers_id(message: dict[str, Any]) -> str:
    return json.loads(base64.b64decode(message["Body"]))["headers"]["id"]


def listed(*options: str) -> set[str]:
    return {dead["name"] for dead in cis_json("dlq", "list", *options)}


@pytest.fixture(scope="module")
def dead(cloud_of_module: Cloud, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cloud, folder = cloud_of_module, tmp_path_factory.mktemp("dead")
    without_lambda(cloud)
    from cis_tasks.app import app
    from cis_tasks.tasks import DeadLetterError

    ids = {name: die(cloud, Scripted(cloud, folder, name).upload()) for name in ("a", "b/c")}
    out_of_memory = DeadLetterError("unexpected", "OutOfMemoryError: CUDA", "")
    app.backend.store_result(ids["a"], out_of_memory, "FAILURE")
    boto3.client("sqs").send_message(
        QueueUrl=cloud.stack.dead_letter_urls["spine"],
        MessageBody="no job",
        MessageGroupId="g",
        MessageDeduplicationId="d",
    )
    return ids


def test_list_shows_each_with_its_error_and_leaves_all(dead: dict[str, str]) -> None:
    for _ in range(2):  # the first look has given them back
        assert listed() == {"a", "b/c", None}
    text = cis("dlq", "list").stdout
    assert "unexpected: OutOfMemoryError: CUDA" in text
    assert "it is no message of Celery's" in text


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--name", "b/*"], {"b/c"}),
        (["--error", "outofmemory"], {"a"}),
        (["--pipeline", "spine", "--newer-than", "1h"], {"a", "b/c", None}),
        (["--older-than", "1h"], set()),
    ],
)
def test_filters(dead: dict[str, str], options: list[str], names: set[str]) -> None:
    assert listed(*options) == names


def test_a_limit_holds(dead: dict[str, str]) -> None:
    assert len(cis_json("dlq", "list", "--limit", "2")) == 2


def test_show_tells_all_of_one(dead: dict[str, str]) -> None:
    told = cis_json("dlq", "show", dead["a"])
    assert told["job"]["inputs"]["sensor_data"]["key"] == "sensor_data/a.csv"
    assert told["error"]["code"] == "unexpected"
    assert told["group"] == "a"
    assert "sensor_data/a.csv" in cis("dlq", "show", dead["a"]).stdout


def test_an_unknown_one_is_told(dead: dict[str, str]) -> None:
    with pytest.raises(PermanentError, match="No dead letter has the id nobody"):
        cis("dlq", "show", "nobody")


def test_a_dry_run_moves_nothing(dead: dict[str, str]) -> None:
    assert dead["a"] in cis("dlq", "redrive", "--dry-run").stdout
    assert listed() == {"a", "b/c", None}


def test_redrive_gets_through_the_deduplication_window_and_keeps_the_group(
    quiet: Cloud, tmp_path: Path
) -> None:
    session = Scripted(quiet, tmp_path, "a b").upload()
    publish(boto3.client("sqs"), quiet.stack.queue_urls["spine"], session.job)
    [first] = queued(quiet)
    aws.sqs().delete_message(
        QueueUrl=quiet.stack.queue_urls["spine"], ReceiptHandle=first["ReceiptHandle"]
    )
    job_id = die(quiet, session)
    assert "1 moved" in cis("dlq", "redrive", job_id, "--no-canary").stdout
    [again] = queued(quiet)
    assert again["Attributes"]["MessageGroupId"] == first["Attributes"]["MessageGroupId"]
    assert headers_id(again) == job_id
    assert again["MessageAttributes"]["lab"]["StringValue"] == "1"
    assert listed() == set()


def test_a_redrive_killed_between_send_and_delete_loses_and_doubles_nothing(
    quiet: Cloud, tmp_path: Path
) -> None:
    job_id = die(quiet, Scripted(quiet, tmp_path, "s").upload())

    class Killed(BaseException):
        pass

    def killed(**_: object) -> None:
        raise Killed

    events = aws.sqs().meta.events
    events.register("before-send.sqs.DeleteMessage", killed)
    try:
        with pytest.raises(Killed):
            cis("dlq", "redrive", "--no-canary")
    finally:
        events.unregister("before-send.sqs.DeleteMessage", killed)
    assert [dead["job_id"] for dead in cis_json("dlq", "list")] == [job_id]
    cis("dlq", "redrive", "--no-canary")
    assert listed() == set()
    assert quiet.queue_counts()["spine"].waiting == 1


def test_more_letters_of_a_group_than_sqs_shows_at_once_all_move(
    quiet: Cloud, tmp_path: Path
) -> None:
    session = Scripted(quiet, tmp_path, "s").upload()
    ids = set()
    for _ in range(12):
        session.upload()  # a new version is a new job
        ids.add(die(quiet, session))
    assert "12 moved" in cis("dlq", "redrive", "--no-canary", "--rate", "100").stdout
    assert quiet.queue_counts()["spine"].waiting == len(ids) == 12


def test_the_canary_goes_first_and_what_does_not_help_is_not_done_to_the_rest(
    cloud: Cloud, tmp_path: Path
) -> None:
    """A job that fails until its cause is mended, as with a GPU that is out of memory."""
    names = ("a", "b")
    with scripted_worker(cloud, tmp_path, CIS_MAX_ATTEMPTS="1"):
        sessions = [Scripted(cloud, tmp_path, name, fail=6).upload() for name in names]
        eventually(lambda: cloud.queue_counts()["spine"].dead == 2)
        assert listed("--error", "was to fail") == set(names)
        with pytest.raises(PermanentError, match="was to fail"):
            cis("dlq", "redrive", "--rate", "50")
        eventually(lambda: cloud.queue_counts()["spine"].dead == 2)
        assert sorted(session.runs for session in sessions) == [3, 6]
        for session in sessions:  # mended
            session.log.write_text("\n" * 9)
        told = cis("dlq", "redrive", "--rate", "50").stdout
        assert "goes first" in told
        assert "2 moved" in told
        for session in sessions:
            [manifest] = eventually(session.manifests)
            assert manifest["status"] == "succeeded"
        assert listed() == set()


def test_a_canary_that_comes_back_without_a_word_stops_the_redrive(
    quiet: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job does that gets its workers killed: nobody is left to store why."""
    monkeypatch.setattr(redrive, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(redrive, "BACK_EVERY_S", 0.0)
    session = Scripted(quiet, tmp_path, "s").upload()
    die(quiet, session)
    message = message_for(session.job)
    boto3.client("sqs").send_message(
        QueueUrl=quiet.stack.dead_letter_urls["spine"],
        MessageBody=message.body,
        MessageGroupId="another",
        MessageDeduplicationId="again",
    )
    with pytest.raises(PermanentError, match="it is a dead letter again"):
        cis("dlq", "redrive")
    with pytest.raises(PermanentError, match="did not end within 0 s"):
        cis("dlq", "redrive", "--canary-timeout", "0s")
