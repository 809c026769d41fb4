from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job, ObjectRef, canonical_json

SENSOR = ObjectRef("in", "sensor_data/a.csv", "v1", versioned=True)
VIDEO = ObjectRef("in", "video_footage/a.mp4", "0f343b0931126a20f133d67c2b018a3b")
JOB = Job("spine", "1", "a", {"sensor_data": SENSOR, "video_footage": VIDEO}, {"k": [1, "ü"]})

text = st.text(min_size=1, max_size=30)
refs = st.builds(ObjectRef, text, text, text, st.booleans())
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
jobs = st.builds(
    Job, text, text, text, st.dictionaries(text, refs, min_size=1), st.dictionaries(text, values)
)


def test_job_id_is_the_hash_of_what_the_job_is() -> None:
    identity = (
        '{"inputs":{"sensor_data":["in","sensor_data/a.csv","v1"],'
        '"video_footage":["in","video_footage/a.mp4","0f343b0931126a20f133d67c2b018a3b"]},'
        '"params":{"k":[1,"ü"]},"pipeline":"spine","version":"1"}'
    )
    digest = hashlib.sha256(identity.encode("utf-8")).hexdigest()
    assert uuid.UUID(JOB.id).hex == digest[:32]


def test_job_id_does_not_depend_on_the_order_of_inputs_and_parameters() -> None:
    one = replace(JOB, params={"x": 1, "y": 2})
    other = replace(
        JOB,
        inputs={"video_footage": VIDEO, "sensor_data": SENSOR},
        params={"y": 2, "x": 1},
    )
    assert one.id == other.id


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, pipeline="image"),
        replace(JOB, pipeline_version="2"),
        replace(JOB, params={"k": [1]}),
        replace(JOB, nonce="again"),
        replace(JOB, inputs={"sensor_data": SENSOR}),
        replace(JOB, inputs={**JOB.inputs, "sensor_data": replace(SENSOR, version="v2")}),
        replace(JOB, inputs={**JOB.inputs, "sensor_data": replace(SENSOR, key="sensor_data/b")}),
        replace(JOB, inputs={**JOB.inputs, "sensor_data": replace(SENSOR, bucket="other")}),
    ],
)
def test_anything_that_changes_the_work_changes_the_job(other: Job) -> None:
    assert other.id != JOB.id


def test_outputs_lie_under_pipeline_name_and_id() -> None:
    assert JOB.prefix == f"spine/a/{JOB.id}/"
    assert JOB.manifest_key == f"spine/a/{JOB.id}/manifest.json"
    assert JOB.latest_key == "spine/a/latest.json"


@given(jobs)
def test_a_job_survives_the_way_through_json(job: Job) -> None:
    there = Job.from_dict(json.loads(json.dumps(job.to_dict())))
    assert there == job
    assert there.id == job.id


@given(st.dictionaries(st.sampled_from(["pipeline", "version", "name", "inputs"]), values))
def test_what_is_no_job_is_refused_with_a_reason(data: dict[str, object]) -> None:
    data["inputs"] = {"sensor_data": data.get("inputs")}
    with pytest.raises(PermanentError) as caught:
        Job.from_dict(data)
    assert caught.value.code == "job_malformed"
    assert caught.value.hint


@pytest.mark.parametrize("value", [{"x": object()}, {"x": float("nan")}, {"x": {1, 2}}])
def test_parameters_that_json_cannot_hold_are_refused(value: object) -> None:
    with pytest.raises(PermanentError) as caught:
        canonical_json(value)
    assert caught.value.code == "params_not_json"
