from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote_plus

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cis_tasks.local.cloud import Cloud
from lambda_trigger import handler as trigger
from lambda_trigger.handler import TriggerError, handler
from support.cloud import MakeCloud, eventually

SENSOR, VIDEO = "sensor_data/{}.csv", "video_footage/{}.mp4"


def put(cloud: Cloud, key: str, body: bytes = b"x", **options: Any) -> None:
    boto3.client("s3").put_object(Bucket=cloud.stack.input_bucket, Key=key, Body=body, **options)


def event(cloud: Cloud, *keys: str, size: int = 1) -> dict[str, Any]:
    records = [
        {
            "eventName": "ObjectCreated:Put",
            "s3": {
                "bucket": {"name": cloud.stack.input_bucket},
                "object": {"key": quote_plus(key, safe="/"), "size": size},
            },
        }
        for key in keys
    ]
    return {"Records": records}


def outcomes(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def jobs(said: Iterable[dict[str, Any]]) -> set[str]:
    return {line["job_id"] for line in said if line["event"] == "published"}


@pytest.fixture
def quiet_cloud(make_cloud: MakeCloud, monkeypatch: pytest.MonkeyPatch) -> Iterable[Cloud]:
    """A cloud whose bucket tells no Lambda, so that the test's own call is the only one."""
    with make_cloud() as cloud:
        boto3.client("s3").put_bucket_notification_configuration(
            Bucket=cloud.stack.input_bucket, NotificationConfiguration={}
        )
        yield cloud


def test_half_of_a_pair_waits_and_says_for_what(
    quiet_cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    put(quiet_cloud, SENSOR.format("a"))
    assert handler(event(quiet_cloud, SENSOR.format("a")), None) == {"waiting": 1}
    [said] = outcomes(capsys)
    assert said["missing"] == ["video_footage"]
    assert said["name"] == "a"
    assert quiet_cloud.queue_counts()["spine"].waiting == 0


@pytest.mark.parametrize("name", ["a", "lab 1/Jürgen+Söhne 50%", "x.y", "日本/録音"])
def test_either_half_completes_the_pair(
    quiet_cloud: Cloud, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    sensor, video = SENSOR.format(name), VIDEO.format(name).replace(".mp4", ".MOV")
    put(quiet_cloud, sensor)
    put(quiet_cloud, video)
    assert handler(event(quiet_cloud, video), None) == {"published": 1}
    assert handler(event(quiet_cloud, sensor), None) == {"published": 1}
    assert len(jobs(outcomes(capsys))) == 1
    assert quiet_cloud.queue_counts()["spine"].waiting == 1


def test_a_late_rig_and_a_new_upload_each_make_a_new_job(
    quiet_cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    put(quiet_cloud, SENSOR.format("a"))
    put(quiet_cloud, VIDEO.format("a"))
    handler(event(quiet_cloud, VIDEO.format("a")), None)
    put(quiet_cloud, "sensor_data/a.json", b"{}")
    handler(event(quiet_cloud, "sensor_data/a.json"), None)
    put(quiet_cloud, SENSOR.format("a"), b"other")
    handler(event(quiet_cloud, SENSOR.format("a")), None)
    assert len(jobs(outcomes(capsys))) == 3


def test_the_default_rig_serves_a_session_without_its_own(
    quiet_cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    from cis_tasks import aws
    from cis_tasks.jobs import Job
    from cis_tasks.join import find_job
    from cis_tasks.pipelines import find

    put(quiet_cloud, "rigs/default.json", b"{}")
    put(quiet_cloud, SENSOR.format("a"))
    put(quiet_cloud, VIDEO.format("a"))
    job = find_job(aws.s3(), quiet_cloud.stack.input_bucket, find("spine"), "a")
    assert isinstance(job, Job)
    assert job.inputs["rig"].key == "rigs/default.json"
    put(quiet_cloud, "sensor_data/a.json", b"{}")
    job = find_job(aws.s3(), quiet_cloud.stack.input_bucket, find("spine"), "a")
    assert isinstance(job, Job)
    assert job.inputs["rig"].key == "sensor_data/a.json"


def test_the_newest_of_several_is_taken_and_empty_ones_are_not(quiet_cloud: Cloud) -> None:
    from cis_tasks import aws
    from cis_tasks.jobs import Job
    from cis_tasks.join import find_job
    from cis_tasks.pipelines import find

    s3, bucket = boto3.client("s3"), quiet_cloud.stack.input_bucket
    put(quiet_cloud, SENSOR.format("a"))
    put(quiet_cloud, "video_footage/a.mp4")
    put(quiet_cloud, "video_footage/a.b.mp4")  # another session's
    first = s3.head_object(Bucket=bucket, Key="video_footage/a.mp4")["LastModified"]

    def put_later() -> bool:  # S3 tells times in seconds
        put(quiet_cloud, "video_footage/a.MOV")
        return s3.head_object(Bucket=bucket, Key="video_footage/a.MOV")["LastModified"] > first

    eventually(put_later)
    put(quiet_cloud, "video_footage/a.webm", b"")
    job = find_job(aws.s3(), bucket, find("spine"), "a")
    assert isinstance(job, Job)
    assert job.inputs["video_footage"].key == "video_footage/a.MOV"


@pytest.mark.parametrize(
    ("key", "reason"),
    [("notes.txt", "no pipeline"), ("sensor_data/a.exe", "no pipeline")],
)
def test_what_is_no_input_is_ignored_with_its_reason(
    quiet_cloud: Cloud, capsys: pytest.CaptureFixture[str], key: str, reason: str
) -> None:
    assert handler(event(quiet_cloud, key), None) == {"ignored": 1}
    [said] = outcomes(capsys)
    assert reason in said["reason"]
    assert said["key"] == key


def test_an_empty_object_is_ignored_with_its_reason(
    quiet_cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    put(quiet_cloud, SENSOR.format("a"), b"")
    assert handler(event(quiet_cloud, SENSOR.format("a"), size=0), None) == {"ignored": 1}
    assert "empty" in outcomes(capsys)[0]["reason"]


def test_an_event_for_an_object_that_is_gone_waits(quiet_cloud: Cloud) -> None:
    put(quiet_cloud, VIDEO.format("a"))
    assert handler(event(quiet_cloud, SENSOR.format("a")), None) == {"waiting": 1}


def test_parameters_that_came_with_an_upload_are_the_jobs(
    quiet_cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    put(quiet_cloud, SENSOR.format("a"), Metadata={"cis-job": '{"params": {"k": 1}, "nonce": ""}'})
    put(quiet_cloud, VIDEO.format("a"))
    handler(event(quiet_cloud, VIDEO.format("a")), None)
    [_, kwargs, _] = json.loads(base64.b64decode(published(quiet_cloud)["body"]))
    assert kwargs["job"]["params"] == {"k": 1}


def test_an_uploader_who_waits_is_told_of_the_job(
    quiet_cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    put(quiet_cloud, SENSOR.format("a"))
    put(quiet_cloud, VIDEO.format("a"), Metadata={"cis-reply-to": "replies-of-a-waiting-tier"})
    handler(event(quiet_cloud, SENSOR.format("a")), None)
    assert published(quiet_cloud)["properties"]["reply_to"] == "replies-of-a-waiting-tier"


def published(cloud: Cloud) -> dict[str, Any]:
    """The one message of the spine's queue."""
    [message] = boto3.client("sqs").receive_message(
        QueueUrl=cloud.stack.queue_urls["spine"], WaitTimeSeconds=5
    )["Messages"]
    envelope: dict[str, Any] = json.loads(base64.b64decode(message["Body"]))
    return envelope


def test_a_bad_record_does_not_stop_the_others(
    quiet_cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    put(quiet_cloud, SENSOR.format("bad"), Metadata={"cis-job": "{"})
    put(quiet_cloud, VIDEO.format("bad"))
    put(quiet_cloud, SENSOR.format("good"))
    put(quiet_cloud, VIDEO.format("good"))
    records = event(quiet_cloud, SENSOR.format("bad"), SENSOR.format("good"))
    records["Records"].insert(0, {"s3": "?"})
    assert handler(records, None) == {"refused": 2, "published": 1}


def test_a_failed_publish_raises_after_the_others_went_through(
    quiet_cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(quiet_cloud, SENSOR.format("a"))
    put(quiet_cloud, VIDEO.format("a"))
    good = quiet_cloud.stack.queue_urls["spine"]
    monkeypatch.setenv("CIS_QUEUE_URL_SPINE", good.replace(".fifo", "-gone.fifo"))
    with pytest.raises(TriggerError, match="publish_failed"):
        handler(event(quiet_cloud, SENSOR.format("a")), None)
    monkeypatch.setenv("CIS_QUEUE_URL_SPINE", good)
    assert handler(event(quiet_cloud, SENSOR.format("a")), None) == {"published": 1}


def test_a_bucket_that_does_not_answer_raises_so_that_lambda_tries_again(
    quiet_cloud: Cloud,
) -> None:
    records = event(quiet_cloud, SENSOR.format("a"))
    records["Records"][0]["s3"]["bucket"]["name"] = "no-such-bucket-here"
    with pytest.raises(TriggerError, match="NoSuchBucket"):
        handler(records, None)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_events_in_any_order_number_and_grouping_make_the_same_jobs(
    quiet_cloud: Cloud, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    keys = [pattern.format(name) for name in ("p", "q/r") for pattern in (SENSOR, VIDEO)]
    for key in keys:
        if (
            not trigger._s3()
            .list_objects_v2(Bucket=quiet_cloud.stack.input_bucket, Prefix=key)
            .get("Contents")
        ):
            put(quiet_cloud, key)
    told = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=8))
    cuts = data.draw(st.lists(st.booleans(), min_size=len(told), max_size=len(told)))
    batches: list[list[str]] = [[]]
    for key, cut in zip(told, cuts, strict=True):
        batches[-1].append(key)
        if cut:
            batches.append([])
    capsys.readouterr()
    for batch in batches:
        handler(event(quiet_cloud, *batch), None)
    names = {key.split("/", 1)[1].rsplit(".", 1)[0] for key in told}
    assert len(jobs(outcomes(capsys))) == len(names)
    # Whatever earlier examples published, SQS holds each job once.
    assert quiet_cloud.queue_counts()["spine"].waiting <= 2
