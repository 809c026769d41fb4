from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cis_tasks.errors import PermanentError
from cis_tasks.jobs import Job, ObjectRef
from cis_tasks.pipelines import PIPELINES, Role, find, is_name, place

SPINE = find("spine")
ROLES = [(pipeline, role) for pipeline in PIPELINES.values() for role in pipeline.roles]
names = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=3).map("/".join)


@pytest.mark.parametrize(
    ("key", "role", "name"),
    [
        ("sensor_data/a.csv", "sensor_data", "a"),
        ("sensor_data/a.b.csv", "sensor_data", "a.b"),
        ("sensor_data/lab 1/Jürgen+Söhne/50%.CSV", "sensor_data", "lab 1/Jürgen+Söhne/50%"),
        ("sensor_data/a.zip", "sensor_data", "a"),
        ("sensor_data/lab/a.Parquet", "sensor_data", "lab/a"),
        ("sensor_data/a.json", "rig", "a"),
        ("video_footage/a.MoV", "video_footage", "a"),
    ],
)
def test_a_key_tells_role_and_name(key: str, role: str, name: str) -> None:
    found = place(key)
    assert found is not None
    assert (found[0].name, found[1].name, found[2]) == ("spine", role, name)


@pytest.mark.parametrize(
    "key",
    [
        "a.csv",
        "sensor_data/",
        "sensor_data/.csv",
        "sensor_data/a/.csv",
        "sensor_data/../a.csv",
        "sensor_data//a.csv",
        "sensor_data/a.exe",
        "sensor_data/csv",
        "video_footage/a.csv",
        "rigs/default.json",
        "Sensor_data/a.csv",
    ],
)
def test_other_keys_belong_to_no_pipeline(key: str) -> None:
    assert place(key) is None


@given(names, st.sampled_from(ROLES), st.data())
def test_the_key_made_for_a_name_leads_back_to_it(
    name: str, chosen: tuple[object, Role], data: st.DataObject
) -> None:
    assume(is_name(name))
    _, role = chosen
    suffix = data.draw(st.sampled_from(role.suffixes))
    suffix = data.draw(st.sampled_from([suffix, suffix.upper()]))
    found = place(role.key_for(name, suffix))
    assert found is not None
    assert found[1:] == (role, name)


@pytest.mark.parametrize(("one", "other"), list(combinations(ROLES, 2)))
def test_no_key_can_play_two_roles(one: tuple[object, Role], other: tuple[object, Role]) -> None:
    prefixes = one[1].prefix, other[1].prefix
    if prefixes[0].startswith(prefixes[1]) or prefixes[1].startswith(prefixes[0]):
        assert not set(one[1].suffixes) & set(other[1].suffixes)


def test_every_queue_is_fifo_and_of_one_pipeline() -> None:
    queues = [pipeline.queue for pipeline in PIPELINES.values()]
    assert all(queue.endswith(".fifo") for queue in queues)
    assert len(set(queues)) == len(queues)


def test_jobs_of_one_session_share_a_group() -> None:
    one = Job("spine", "1", "a", {"sensor_data": ObjectRef("b", "k", "1")})
    other = Job("spine", "1", "a", {"sensor_data": ObjectRef("b", "k", "2")})
    assert SPINE.group_of(one) == SPINE.group_of(other) == "a"


def test_an_unknown_pipeline_or_role_is_named_with_those_there_are() -> None:
    with pytest.raises(PermanentError, match=r"'spin'.*spine"):
        find("spin")
    with pytest.raises(PermanentError, match=r"'sensors'.*sensor_data"):
        SPINE.role("sensors")


def imported_by(statement: str) -> set[str]:
    script = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    return {name.split(".")[0] for name in json.loads(out.stdout)}


def test_importing_the_package_costs_neither_celery_nor_torch() -> None:
    heavy = {"celery", "kombu", "torch", "cv2", "numpy", "boto3", "pydantic"}
    assert not imported_by("import cis_tasks; dir(cis_tasks)") & heavy


def test_a_client_calls_a_task_without_torch() -> None:
    modules = imported_by("import cis_tasks; cis_tasks.calibrate_spine, cis_tasks.submit")
    assert "celery" in modules
    assert not modules & {"torch", "cv2", "numpy", "pycurl"}


def test_a_misspelt_name_is_an_attribute_error() -> None:
    import cis_tasks

    with pytest.raises(AttributeError, match="calibrate_spin"):
        _ = cis_tasks.calibrate_spin
    assert "calibrate_spine" in dir(cis_tasks)
