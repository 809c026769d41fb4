from __future__ import annotations

import base64
import json
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

import cis_tasks
from cis_tasks.errors import PermanentError, PublishError
from cis_tasks.jobs import Job, ObjectRef
from cis_tasks.local.cloud import Cloud
from cis_tasks.publish import message_for, message_group, message_kwargs, publish, publish_many


def job(name: str = "a", **params: Any) -> Job:
    ref = ObjectRef("in", f"sensor_data/{name}.csv", "v1", versioned=True)
    return Job("spine", "1", name, {"sensor_data": ref}, params)


def unpacked(body: str) -> dict[str, Any]:
    message = json.loads(base64.b64decode(body))
    return {**message, "body": json.loads(base64.b64decode(message["body"]))}


def received(cloud: Cloud, count: int) -> list[dict[str, Any]]:
    sqs, messages = boto3.client("sqs"), []
    while len(messages) < count:
        answer = sqs.receive_message(
            QueueUrl=cloud.stack.queue_urls["spine"],
            MaxNumberOfMessages=10,
            WaitTimeSeconds=5,
            AttributeNames=["All"],
        )
        assert answer.get("Messages"), f"{len(messages)} of {count} messages came"
        messages += answer["Messages"]
    return messages


@pytest.mark.parametrize("name", ["a", "lab 1/Jürgen 50%"])
def test_the_message_equals_what_celery_itself_sends(cloud: Cloud, name: str) -> None:
    work = job(name, k=["ü", 1.5, None])
    url = cloud.stack.queue_urls["spine"]
    cis_tasks.calibrate_spine.apply_async(kwargs=message_kwargs(work))
    [celerys] = received(cloud, 1)
    boto3.client("sqs").purge_queue(QueueUrl=url)
    # A second message with the same deduplication id: SQS would swallow it in this queue.
    ours = message_for(work)
    theirs, mine = unpacked(celerys["Body"]), unpacked(ours.body)
    for message in (theirs, mine):  # of the publisher, not of the job
        assert message["properties"].pop("delivery_tag")
        assert message["headers"].pop("origin")
        message["properties"].pop("reply_to")
    assert mine == theirs
    assert list(mine["headers"]) == list(theirs["headers"])
    assert celerys["Attributes"]["MessageGroupId"] == ours.group
    assert celerys["Attributes"]["MessageDeduplicationId"] == ours.dedup


def test_publishing_twice_queues_one_message(cloud: Cloud) -> None:
    url = cloud.stack.queue_urls["spine"]
    for _ in range(2):
        publish(boto3.client("sqs"), url, job())
    assert len(received(cloud, 1)) == 1
    assert cloud.queue_counts()["spine"].waiting == 0


def test_bulk_publish_sends_ten_per_call_and_each_job_once(cloud: Cloud) -> None:
    sqs, sizes = boto3.client("sqs"), []
    sqs.meta.events.register(
        "before-parameter-build.sqs.SendMessageBatch",
        lambda params, **_: sizes.append(len(params["Entries"])),
    )
    jobs = [job(f"s{index}") for index in range(25)]
    published = publish_many(sqs, dict(cloud.stack.queue_urls), [*jobs, *jobs])
    assert [item.job for item in published] == jobs
    assert all(item.error is None for item in published)
    assert sizes == [10, 10, 5]
    ids = {unpacked(message["Body"])["headers"]["id"] for message in received(cloud, 25)}
    assert ids == {item.id for item in jobs}


def test_one_entry_that_sqs_refuses_fails_alone() -> None:
    # A refusal of single entries cannot be provoked on the emulator.
    sqs = boto3.client(
        "sqs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    jobs = [job("a"), job("b"), job("c")]
    done = {"MessageId": "1", "MD5OfMessageBody": ""}
    with Stubber(sqs) as stub:
        stub.add_response(
            "send_message_batch",
            {
                "Successful": [{"Id": "0", **done}, {"Id": "2", **done}],
                "Failed": [
                    {"Id": "1", "SenderFault": False, "Code": "InternalError", "Message": "later"}
                ],
            },
        )
        published = publish_many(sqs, {"spine": "https://sqs/q.fifo"}, jobs)
    errors = [item.error for item in published]
    assert errors[0] is None
    assert errors[2] is None
    assert isinstance(errors[1], PublishError)
    assert "later" in str(errors[1])
    assert jobs[1].id in str(errors[1])


def test_a_failed_call_is_reported_for_each_of_its_jobs(cloud: Cloud) -> None:
    url = cloud.stack.queue_urls["spine"].replace(".fifo", "-gone.fifo")
    published = publish_many(boto3.client("sqs"), {"spine": url}, [job("a"), job("b")])
    assert {item.error.code for item in published if item.error} == {"publish_failed"}
    with pytest.raises(PublishError, match="publishing again is safe"):
        publish(boto3.client("sqs"), url, job())


def test_a_job_too_large_for_sqs_or_without_a_queue_does_not_stop_others(cloud: Cloud) -> None:
    sqs, urls = boto3.client("sqs"), dict(cloud.stack.queue_urls)
    large, small = job("large", blob="x" * 900_000), job("small")
    published = publish_many(sqs, urls, [large, small])
    assert [item.error and item.error.code for item in published] == ["job_too_large", None]
    [alone] = publish_many(sqs, {}, [small])
    assert alone.error
    assert "CIS_QUEUE_URL_SPINE" in str(alone.error)


def test_a_job_of_no_pipeline_is_refused() -> None:
    with pytest.raises(PermanentError, match="nope"):
        message_for(Job("nope", "1", "a", {}))


@pytest.mark.parametrize("name", ["a", "lab/a", "x" * 128])
def test_a_name_that_sqs_takes_is_its_own_group(name: str) -> None:
    assert message_group(name) == name


@pytest.mark.parametrize("name", ["a b", "ü", "x" * 129, "a\nb"])
def test_another_name_has_a_group_of_its_own_all_the_same(name: str) -> None:
    group = message_group(name)
    assert group.isascii()
    assert len(group) <= 128
    assert group == message_group(name) != message_group(name + "!")
