"""The result backend with real workers: what callers see, what is stored, and what it costs."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import results_app
from celery import Celery, chain, chord, group, states
from celery.app.task import Context
from celery.exceptions import ChordError, ImproperlyConfigured, TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import GroupResult
from results_place import WAIT_S, Place, Task, app, place, task, worker

from cis_tasks.broker import calls, replies
from cis_tasks.broker.results import Backend
from cis_tasks.local.workers import Worker
from support.cloud import eventually

__all__ = ["app", "place", "task", "worker"]


@pytest.fixture
def backend(app: Celery) -> Backend:
    made: Backend = app.backend
    return made


def new_id() -> str:
    return str(uuid.uuid4())


# What callers see


def test_get_gives_what_the_task_returned(task: Task) -> None:
    assert task("add").delay(1, 2).get(timeout=WAIT_S) == 3


def test_get_is_told_and_asks_s3_for_nothing(task: Task, app: Celery) -> None:
    begin_to_listen(app)
    calls.reset()
    assert [task("add").delay(n, 1).get(timeout=WAIT_S) for n in range(3)] == [1, 2, 3]
    assert [name for name in calls.made() if name.startswith("s3.")] == []


def begin_to_listen(app: Celery) -> None:
    """Wait for something, so that this process has a reply queue."""
    app.tasks["results_app.add"].delay(0, 0).get(timeout=WAIT_S)
    eventually(lambda: app.backend.replies.live_since)


def test_every_final_state_is_in_s3_for_any_process(task: Task, place: Place, app: Celery) -> None:
    done, failed = task("add").delay(2, 2), task("fail").delay("plain")
    done.get(timeout=WAIT_S)
    failed.get(timeout=WAIT_S, propagate=False)
    assert place.stored_meta(done.id) == place.stored_meta(done.id) | {
        "status": "SUCCESS",
        "result": 4,
        "name": "results_app.add",
    }
    printed = place.run_client(
        f"print(app.AsyncResult('{done.id}').get(timeout=120))\n"
        f"print(app.AsyncResult('{failed.id}').state)"
    )
    assert printed.split() == ["4", "FAILURE"]


def test_a_result_that_another_process_asked_for_is_waited_for(task: Task, place: Place) -> None:
    result = task("sleep").delay(1.5)
    assert place.run_client(f"print(app.AsyncResult('{result.id}').get(timeout=120))") == "1.5"


def test_errors_come_typed_with_their_traceback(task: Task) -> None:
    result = task("fail").delay("telling")
    with pytest.raises(results_app.TellingError) as caught:
        result.get(timeout=WAIT_S)
    assert (caught.value.code, caught.value.message) == (7, "seven")
    assert "raise TellingError(7" in result.traceback
    with pytest.raises(ValueError, match="not this one"):
        task("fail").delay("value").get(timeout=WAIT_S)
    assert isinstance(
        task("fail").delay("x").get(timeout=WAIT_S, propagate=False), results_app.PlainError
    )


def test_retries_are_seen_and_the_last_attempt_counts(task: Task) -> None:
    seen: list[str] = []
    result = task("fail_then_add").delay(1, 2, 2)
    assert result.get(timeout=WAIT_S, on_message=lambda meta: seen.append(meta["status"])) == 3
    assert seen.count("RETRY") == 2
    assert seen[-1] == "SUCCESS"


def test_an_expired_task_is_revoked(task: Task) -> None:
    with pytest.raises(TaskRevokedError, match="expired"):
        task("add").apply_async((1, 1), expires=-1).get(timeout=WAIT_S)


def test_a_timeout_says_so_and_the_result_can_be_had_later(task: Task) -> None:
    result = task("sleep").delay(1)
    with pytest.raises(CeleryTimeoutError):
        result.get(timeout=0)
    with pytest.raises(CeleryTimeoutError):
        result.get(timeout=0.2)
    assert result.get(timeout=WAIT_S) == 1


def test_ignored_results_are_neither_stored_nor_sent(task: Task, place: Place) -> None:
    ignored = task("add").apply_async((1, 1), ignore_result=True)
    assert ignored.get() is None
    task("add").delay(1, 1).get(timeout=WAIT_S)
    eventually(lambda: empty(place))
    assert place.stored_meta(ignored.id) is None


def empty(place: Place) -> bool:
    counts = boto3.client("sqs").get_queue_attributes(
        QueueUrl=place.variables["RESULTS_QUEUE_URL"],
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )["Attributes"]
    return not any(int(count) for count in counts.values())


def test_children_are_those_that_the_task_published(task: Task) -> None:
    result = task("publish_children").delay([1, 2])
    result.get(timeout=WAIT_S)
    assert [child.get(timeout=WAIT_S) for child in result.children] == [2, 3]
    assert {leaf.id for leaf, _ in result.collect()} > {child.id for child in result.children}


def test_a_result_too_large_for_a_message_is_fetched_from_s3(task: Task) -> None:
    size = 3 * replies.MAX_PAYLOAD
    assert len(task("big").delay(size).get(timeout=WAIT_S)) == size


def test_forget_leaves_nothing(task: Task, place: Place, app: Celery) -> None:
    result = task("add").delay(1, 2)
    result.get(timeout=WAIT_S)
    result.forget()
    assert place.stored_meta(result.id) is None
    assert app.AsyncResult(result.id).state == "PENDING"
    assert not app.AsyncResult(result.id).exists()


def test_a_task_may_wait_for_another(task: Task, app: Celery) -> None:
    for number in range(3):  # each process of the pool at least once with its own reply queue
        assert task("wait_for_child").delay(number, 1).get(timeout=WAIT_S) == number + 1
    # From then on such a process is told of what it publishes, and its caller still is.
    begin_to_listen(app)
    calls.reset()
    assert task("become_group").delay([1, 2]).get(timeout=WAIT_S) == [2, 3]
    assert calls.made().get("s3.GetObject", 0) == 0


# Groups, chains, chords


def test_a_group_gives_its_results_in_order(task: Task) -> None:
    result = group(task("add").s(n, n) for n in range(25))()
    assert result.get(timeout=WAIT_S) == [2 * n for n in range(25)]
    assert result.successful()


def test_a_group_of_groups_keeps_its_shape(task: Task, app: Celery) -> None:
    add = task("add")
    inner = GroupResult(new_id(), [add.delay(1, 1), add.delay(2, 2)], app=app)
    outer = GroupResult(new_id(), [inner, add.delay(3, 3)], app=app)
    assert outer.get(timeout=WAIT_S) == [[2, 4], 6]
    assert group([])().get(timeout=1) == []


def test_members_come_as_they_end(task: Task, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    members = [task("wait_for").s(str(gate)), task("same").s("fast")]
    ended = group(members)().iter_native(timeout=WAIT_S)
    assert next(ended)[1]["result"] == "fast"
    gate.touch()
    assert [meta["result"] for _, meta in ended] == [str(gate)]

    gate.unlink()
    seen: list[str] = []

    def see(_: str, value: str) -> None:
        seen.append(value)
        gate.touch()

    assert group(members)().join_native(timeout=WAIT_S, callback=see) is None
    assert seen == ["fast", str(gate)]


def test_a_group_with_a_failure_raises_it(task: Task) -> None:
    result = group([task("add").s(1, 1), task("fail").s("value")])()
    with pytest.raises(ValueError, match="not this one"):
        result.get(timeout=WAIT_S)
    assert [type(one) for one in result.get(timeout=WAIT_S, propagate=False)] == [int, ValueError]


def test_join_and_get_many_work_too(task: Task, backend: Backend) -> None:
    result = group(task("add").s(n, 0) for n in range(3))()
    assert result.join(timeout=WAIT_S) == [0, 1, 2]
    found = dict(backend.get_many({one.id for one in result}, timeout=WAIT_S))
    assert {task_id: meta["result"] for task_id, meta in found.items()} == {
        one.id: n for n, one in enumerate(result)
    }


def test_groups_are_saved_restored_and_deleted(task: Task, app: Celery, place: Place) -> None:
    result = group(task("add").s(n, 1) for n in range(3))()
    result.save()
    printed = place.run_client(
        "from celery.result import GroupResult\n"
        f"print(GroupResult.restore('{result.id}', app=app).get(timeout=120))"
    )
    assert printed == "[1, 2, 3]"
    result.delete()
    assert GroupResult.restore(result.id, app=results_app.make_app()) is None


def test_a_chain_passes_results_on_and_is_told(task: Task, app: Celery) -> None:
    begin_to_listen(app)
    calls.reset()
    result = chain(task("add").s(1, 1), task("add").s(2), task("add").s(3))()
    assert result.get(timeout=WAIT_S) == 7
    assert result.parent.get() == 4
    # Celery's get() asks for each parent once before it waits.
    assert calls.made().get("s3.GetObject", 0) <= 2


def test_a_failure_in_a_chain_reaches_whoever_waits_for_its_end(task: Task) -> None:
    result = chain(task("fail").si("value"), task("add").s(2), task("add").s(3))()
    with pytest.raises(ValueError, match="not this one"):
        result.get(timeout=WAIT_S)
    assert result.get(timeout=WAIT_S, propagate=False, follow_parents=False)


def test_a_chord_calls_its_body_with_all_results_in_order(task: Task, place: Place) -> None:
    result = chord((task("add").s(n, n) for n in range(12)), task("same").s())()
    assert result.get(timeout=WAIT_S) == [2 * n for n in range(12)]
    assert result.parent.get(timeout=WAIT_S) == [2 * n for n in range(12)]
    group_id = result.parent.id
    eventually(lambda: place.stored(f"chord-unlock-{group_id}/") == [done_marker(group_id)])


def done_marker(group_id: str) -> str:
    return f"results/chord-unlock-{group_id}/done"


def test_a_chord_keeps_the_shape_of_groups_in_its_header(task: Task) -> None:
    add = task("add")
    header = [chain(add.s(1, 1), group(add.s(1), add.s(2))), add.s(3, 3)]
    assert chord(header, task("same").s())().get(timeout=WAIT_S) == [[3, 4], 6]


def test_a_group_between_tasks_is_a_chord(task: Task) -> None:
    add, total = task("add"), task("total")
    result = chain(add.s(1, 1), group(add.s(n) for n in range(3)), total.s(), add.s(10))()
    assert result.get(timeout=WAIT_S) == 19


def test_a_chord_in_a_chord_is_one_member(task: Task) -> None:
    add, total = task("add"), task("total")
    inner = chord([add.s(1, 1), add.s(2, 2)], total.s())
    assert chord([inner, add.s(4, 4)], total.s())().get(timeout=WAIT_S) == 14


def test_a_failed_member_fails_the_chord(task: Task) -> None:
    result = chord([task("add").s(1, 1), task("fail").s("value")], task("total").s())()
    with pytest.raises(ChordError, match=r"Dependency .* raised ValueError"):
        result.get(timeout=WAIT_S, follow_parents=False)


def test_members_of_a_chord_may_ignore_their_results(task: Task) -> None:
    header = [task("add").s(n, 0).set(ignore_result=True) for n in range(3)]
    assert chord(header, task("total").s())().get(timeout=WAIT_S, follow_parents=False) == 3


def test_a_member_may_become_a_group_or_add_another(task: Task) -> None:
    header = [task("become_group").si([1, 2]), task("add").s(1, 1)]
    assert chord(header, task("same").s())().get(timeout=WAIT_S) == [[2, 3], 2]
    larger = chord([task("enlarge").s(5), task("add").s(1, 1)], task("total").s())()
    assert larger.get(timeout=WAIT_S) == 5 + 6 + 2


def test_the_same_chord_can_be_run_again(task: Task) -> None:
    signature = chord([task("add").s(n, 0) for n in range(3)], task("total").s())
    assert signature().get(timeout=WAIT_S) == 3
    assert signature().get(timeout=WAIT_S) == 3


def test_a_frozen_chord_can_be_run_again_within_the_dedup_window(
    task: Task, tmp_path: Path
) -> None:
    bodies = tmp_path / "bodies"
    signature = chord([task("add").s(n, 0) for n in range(2)], task("note").si(str(bodies), "body"))
    signature.freeze()
    signature.apply_async().get(timeout=WAIT_S)
    eventually(lambda: ran(bodies) == 1)
    signature.apply_async()
    eventually(lambda: ran(bodies) == 2)


def test_a_group_after_a_failed_task_fails_with_it(task: Task) -> None:
    result = chain(task("fail").si("value"), group(task("add").s(1), task("add").s(2))).delay()
    with pytest.raises(ValueError, match="not this one"):
        result.get(timeout=WAIT_S)


def test_a_chord_whose_member_is_killed_starts_its_body_once(
    task: Task, tmp_path: Path, place: Place
) -> None:
    runs, bodies = tmp_path / "runs", tmp_path / "bodies"
    header = [task("add").s(1, 1), task("die_once").si(str(runs), 5), task("add").s(2, 2)]
    result = chord(header, task("note").si(str(bodies), "body"))()
    assert result.get(timeout=2 * WAIT_S) == "body"
    assert len(runs.read_text().splitlines()) == 2
    eventually(lambda: empty(place))
    assert len(bodies.read_text().splitlines()) == 1


class MadeUpChord:
    """A chord whose members end when the test says so, in whichever process it says."""

    def __init__(self, app: Celery, size: int, bodies: Path) -> None:
        self.id, self.body_id = new_id(), new_id()
        body = app.tasks["results_app.note"].si(str(bodies), "body")
        self.body = dict(body.set(task_id=self.body_id))
        self.members = [new_id() for _ in range(size)]
        header = [app.AsyncResult(member) for member in self.members]
        self.backend, self.size = app.backend, size
        self.backend.apply_chord((self.id, header), body)

    def publish_last(self) -> None:
        self.backend.set_chord_size(self.id, self.size)

    def request(self, index: int) -> Context:
        return Context(
            id=self.members[index], group=self.id, group_index=index, chord=dict(self.body)
        )

    def end(self, backend: Backend, index: int, result: Any = 1) -> None:
        backend.on_chord_part_return(self.request(index), states.SUCCESS, result)


def ran(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_members_that_end_at_the_same_time_and_twice_start_the_body_once(
    app: Celery, worker: Worker, place: Place, tmp_path: Path
) -> None:
    bodies = tmp_path / "bodies"
    made_up = MadeUpChord(app, 6, bodies)
    made_up.publish_last()

    def end(index: int) -> None:
        made_up.end(results_app.make_app().backend, index % 6)

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(end, range(12)))
    eventually(lambda: ran(bodies))
    made_up.end(app.backend, 3)  # and long after
    eventually(lambda: empty(place))
    assert ran(bodies) == 1
    assert place.stored(f"chord-unlock-{made_up.id}/") == [done_marker(made_up.id)]


def test_members_of_a_large_chord_are_counted_and_not_listed(
    app: Celery, worker: Worker, place: Place, tmp_path: Path
) -> None:
    bodies = tmp_path / "bodies"
    made_up = MadeUpChord(app, 40, bodies)
    for index in range(3):  # these end while others are still being published
        made_up.end(app.backend, index)
    made_up.publish_last()
    calls.reset()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda index: made_up.end(app.backend, index), range(2, 40)))
    eventually(lambda: ran(bodies))
    eventually(lambda: empty(place))
    assert calls.made()["s3.ListObjectsV2"] < 10
    assert ran(bodies) == 1
    assert place.stored(f"chord-unlock-{made_up.id}/") == [done_marker(made_up.id)]


@pytest.mark.parametrize("when", ["before the body", "after the body"])
@pytest.mark.usefixtures("worker")
def test_a_chord_whose_last_member_dies_while_it_starts_the_body_starts_it_once(
    app: Celery,
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    bodies = tmp_path / "bodies"
    made_up = MadeUpChord(app, 2, bodies)
    made_up.publish_last()
    made_up.end(app.backend, 0)

    class DiedError(BaseException):
        """Stands for SIGKILL."""

    def die(*_: object) -> None:
        raise DiedError

    before = when == "before the body"
    target = f"cis_tasks.broker.chords.Chord.{'parts' if before else 'close'}"
    with monkeypatch.context() as patch:
        patch.setattr(target, die)
        with pytest.raises(DiedError):
            made_up.end(app.backend, 1)
    eventually(lambda: before or (place.stored_meta(made_up.body_id) or {}).get("date_done"))
    made_up.end(results_app.make_app().backend, 0)  # another member, repeated, leaves it alone
    made_up.end(results_app.make_app().backend, 1)  # its message came back
    eventually(lambda: ran(bodies))
    eventually(lambda: empty(place))
    assert ran(bodies) == 1


def test_a_member_that_failed_and_then_succeeds_counts_as_success(
    app: Celery, worker: Worker, tmp_path: Path
) -> None:
    bodies = tmp_path / "bodies"
    made_up = MadeUpChord(app, 2, bodies)
    made_up.publish_last()
    failure = ValueError("out of time")
    app.backend.on_chord_part_return(made_up.request(0), states.FAILURE, failure)
    made_up.end(app.backend, 0)
    app.backend.on_chord_part_return(made_up.request(0), states.FAILURE, failure)
    made_up.end(app.backend, 1)
    assert app.AsyncResult(made_up.body_id).get(timeout=WAIT_S) == "body"


# What is stored


@pytest.mark.parametrize("late", ["STARTED", "RETRY", "FAILURE", "PROGRESS", "REVOKED", "SUCCESS"])
def test_a_success_is_never_overwritten(place: Place, late: str) -> None:
    task_id = new_id()
    stale, worker = (results_app.make_app().backend for _ in range(2))
    stale.store_result(task_id, {"pid": 1}, "STARTED")
    worker.store_result(task_id, {"pid": 2}, "STARTED")
    worker.store_result(task_id, 42, "SUCCESS")
    stale.store_result(task_id, ValueError("late") if late == "FAILURE" else "late", late)
    meta = place.stored_meta(task_id)
    assert meta is not None
    assert (meta["status"], meta["result"]) == ("SUCCESS", 42)


def test_a_failure_gives_way_to_the_success_of_another_worker(place: Place) -> None:
    task_id = new_id()
    first, second = (results_app.make_app().backend for _ in range(2))
    first.store_result(task_id, ValueError("lost"), "FAILURE")
    second.store_result(task_id, 1, "SUCCESS")
    assert results_app.make_app().AsyncResult(task_id).get(timeout=1) == 1


def test_of_many_that_succeed_at_once_the_first_counts(place: Place) -> None:
    task_id = new_id()

    def succeed(value: int) -> None:
        results_app.make_app().backend.store_result(task_id, value, "SUCCESS")

    succeed(0)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(succeed, range(1, 9)))
    meta = place.stored_meta(task_id)
    assert meta is not None
    assert meta["result"] == 0


def test_progress_is_sent_each_time_and_stored_now_and_then(
    task: Task, place: Place, app: Celery
) -> None:
    seen: list[Any] = []
    calls.reset()
    result = task("progress").delay(20, 0.1)
    stored = set()
    while not seen or seen[-1][0] not in states.READY_STATES:
        try:
            result.get(
                timeout=0.3, on_message=lambda meta: seen.append((meta["status"], meta["result"]))
            )
        except CeleryTimeoutError:
            meta = place.stored_meta(result.id) or {}
            if meta.get("status") == "PROGRESS":
                stored.add(meta["result"]["step"])
    sent = [value["step"] for state, value in seen if state == "PROGRESS"]
    assert len(set(sent)) >= 12  # those that came while nobody waited are passed over
    assert 1 <= len(stored) <= 4


def test_the_newest_progress_is_stored_though_no_other_follows(
    place: Place, backend: Backend
) -> None:
    task_id = new_id()
    for step in range(5):
        backend.store_result(task_id, {"step": step}, "PROGRESS")
    first = place.stored_meta(task_id)
    assert first is not None
    assert first["result"] == {"step": 0}
    eventually(lambda: (place.stored_meta(task_id) or {}).get("result") == {"step": 4})


def test_results_expire(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = {"result_expires": 1, "result_failure_expires": 3600}
    monkeypatch.setenv("RESULTS_OVERRIDES", json.dumps(overrides))
    app = results_app.make_app()
    done, failed = new_id(), new_id()
    app.backend.store_result(done, 1, "SUCCESS")
    app.backend.store_result(failed, ValueError("x"), "FAILURE")
    other = results_app.make_app()
    eventually(lambda: other.backend.get_task_meta(done, cache=False)["status"] == "PENDING")
    assert other.AsyncResult(failed).state == "FAILURE"
    assert not other.AsyncResult(done).exists()


def test_cleanup_removes_what_has_expired_and_nothing_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = boto3.client("s3")
    s3.put_object(Bucket=place.bucket, Key="results/not-ours", Body=b"")
    monkeypatch.setenv("RESULTS_OVERRIDES", json.dumps({"result_expires": 1}))
    app, task_id = results_app.make_app(), new_id()
    app.backend.store_result(task_id, 1, "SUCCESS")
    GroupResult(new_id(), [], app=app).save()

    def cleaned() -> bool:
        app.backend.cleanup()
        return place.stored() == ["results/not-ours"]

    eventually(cleaned)
    monkeypatch.setenv("RESULTS_OVERRIDES", json.dumps({"result_expires": None}))
    keeping = results_app.make_app()
    keeping.backend.store_result(task_id, 1, "SUCCESS")
    keeping.backend.cleanup()
    assert place.stored_meta(task_id) is not None


@pytest.mark.parametrize(
    "overrides",
    [
        {"result_compression": "gzip"},
        {"result_serializer": "pickle", "accept_content": ["json", "pickle"]},
        {"result_serializer": "yaml", "accept_content": ["json", "yaml"]},
    ],
    ids=["compressed", "pickle", "yaml"],
)
def test_results_survive_other_encodings(
    place: Place, monkeypatch: pytest.MonkeyPatch, overrides: dict[str, Any]
) -> None:
    monkeypatch.setenv("RESULTS_OVERRIDES", json.dumps(overrides))
    app = results_app.make_app()
    for value in ("é ☃ \x00", [1, {"a": None}]):
        task_id = new_id()
        request = Context(id=task_id, reply_to=app.backend.reply_address(task_id, None))
        with app.backend.replies.listen([task_id]) as inbox:
            app.backend.store_result(task_id, value, "SUCCESS", request=request)
            [reply] = eventually(lambda inbox=inbox: inbox.take(1))
        assert app.backend.decode_result(reply.payload)["result"] == value
        assert results_app.make_app().AsyncResult(task_id).get(timeout=WAIT_S) == value


def test_a_missing_bucket_is_said_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESULTS_OVERRIDES", json.dumps({"s3_bucket": ""}))
    with pytest.raises(ImproperlyConfigured, match="s3_bucket"):
        results_app.make_app().backend  # noqa: B018
