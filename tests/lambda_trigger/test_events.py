from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_trigger.events import Skipped, Upload, uploads

EVENTS = Path(__file__).parents[1] / "events"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keywords = st.sampled_from(
    ["Records", "s3", "object", "bucket", "key", "name", "Sns", "Message", "body", "detail",
     "source", "Type", "Event", "eventName", "detail-type", "size"]
)  # fmt: skip
event_like = st.recursive(
    json_values | st.sampled_from(["aws.s3", "Notification", "Object Created"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keywords, inner, max_size=4),
    max_leaves=12,
)


def read(name: str) -> object:
    return json.loads((EVENTS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["s3_put", "sns_s3", "sqs_s3", "sqs_sns_s3"])
def test_an_s3_record_is_found_in_every_wrapping_and_its_key_decoded(name: str) -> None:
    assert list(uploads(read(name))) == [
        Upload("amzn-s3-demo-bucket", "sensor_data/lab 1/50% über+unter.csv", 1024)
    ]


@pytest.mark.parametrize("name", ["eventbridge_created", "sqs_eventbridge"])
def test_an_eventbridge_key_is_taken_as_it_is(name: str) -> None:
    assert list(uploads(read(name))) == [
        Upload("amzn-s3-demo-bucket1", "sensor_data/lab 1/50% über+unter.csv", 5)
    ]


@pytest.mark.parametrize("name", ["s3_test", "s3_removed"])
def test_what_creates_no_object_is_skipped_with_its_reason(name: str) -> None:
    [skipped] = uploads(read(name))
    assert isinstance(skipped, Skipped)
    assert not skipped.malformed
    assert "s3:TestEvent" in skipped.reason or "ObjectRemoved" in skipped.reason


def test_one_bad_record_does_not_hide_the_others() -> None:
    good = read("s3_put")["Records"][0]  # type: ignore[index]
    event = {"Records": [{"s3": {}}, None, {"body": "{"}, good, {"Sns": {}}]}
    found = list(uploads(event))
    assert [type(item) for item in found] == [Skipped, Skipped, Skipped, Upload, Skipped]
    assert all(item.malformed for item in found if isinstance(item, Skipped))


@given(event_like)
def test_nothing_that_json_can_say_breaks_the_reading(event: object) -> None:
    for item in uploads(event):
        assert isinstance(item, Upload | Skipped)


@given(st.text(min_size=1))
def test_any_key_survives_the_encoding_of_s3(key: str) -> None:
    from urllib.parse import quote_plus

    record = {"s3": {"bucket": {"name": "b"}, "object": {"key": quote_plus(key), "size": 1}}}
    assert list(uploads({"Records": [record]})) == [Upload("b", key, 1)]
