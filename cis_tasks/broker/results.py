"""The result backend that a Celery app names as its ``result_backend``.

Every final state is an object in S3, written before anybody is told: it is found by any process,
whatever becomes of the one that asked for the task. The process that published the task is also
told through its own reply queue, so that its ``get()`` returns at once and asks S3 for nothing.

Settings, as for Celery's own S3 backend: ``s3_bucket``, ``s3_base_path``, and where boto3's
standard chain is not to decide, ``s3_region``, ``s3_endpoint_url``, ``s3_access_key_id`` and
``s3_secret_access_key``. The reply queues follow ``queue_name_prefix``, ``region``,
``endpoint_url`` and ``wait_time_seconds`` of ``broker_transport_options``.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import maybe_signature, signals, states
from celery._state import get_current_worker_task
from celery.backends.asynchronous import AsyncBackendMixin
from celery.backends.base import BaseKeyValueStoreBackend
from celery.canvas import _regen
from celery.exceptions import ChordError, ImproperlyConfigured
from celery.result import GroupResult, result_from_tuple
from celery.utils.log import get_logger
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from cis_tasks.broker import fifo, replies
from cis_tasks.broker.chords import Chord, Claim, Count, Part
from cis_tasks.broker.clients import Access
from cis_tasks.broker.objects import Objects, Stored
from cis_tasks.broker.replies import Exchange, Reply, ReplyQueue
from cis_tasks.broker.task_states import EXPIRES, State, TaskStates
from cis_tasks.broker.waiting import Waits, ancestors

PROGRESS_INTERVAL_S = 1.0
PENDING = {"status": states.PENDING, "result": None}
STORED_AT_ONCE = states.READY_STATES | {states.STARTED, states.RETRY}

log = get_logger(__name__)


class Backend(BaseKeyValueStoreBackend, AsyncBackendMixin):  # type: ignore[misc]  # no types
    """Results in S3, and on their way to whoever waits for them.

    Without the replies, a caller would poll S3: with Celery's own interval of half a second, a
    task of a millisecond takes half a second to be heard of, and each second of waiting is two
    calls.

    A stored SUCCESS stays, whatever a stale worker reports later. States that a task makes up
    with ``update_state`` are sent each time and stored at most once in ``progress_interval_s``
    seconds (1, in ``result_backend_transport_options``).
    """

    key_t = bytes_to_str
    supports_native_join = True
    supports_result_compression = True
    supports_failure_expires = True

    def __init__(self, app: Any, **options: Any) -> None:
        """Read the settings; nothing is asked of AWS.

        Raises:
            ImproperlyConfigured: no bucket is named.
        """
        super().__init__(app=app, **options)
        conf = app.conf
        self.bucket = conf.get("s3_bucket")
        if not self.bucket:
            raise ImproperlyConfigured(
                "The result backend has no bucket: set s3_bucket to the one for results."
            )
        self.objects = Objects(self.bucket, conf.get("s3_base_path") or "", _s3_access(conf))
        own_options = conf.get("result_backend_transport_options") or {}
        self._states = TaskStates(
            self.objects, own_options.get("progress_interval_s", PROGRESS_INTERVAL_S)
        )
        failure_expires = conf.get("result_failure_expires")
        self._failure_expires = (
            self.expires if failure_expires is None else self.prepare_expires(failure_expires)
        )
        self._exchange = _exchange(conf)
        self._thread = threading.local()
        self.result_consumer = Waits(
            self, app, self.accept, self._pending_results, self._pending_messages
        )

    @property
    def replies(self) -> ReplyQueue:
        """The reply queue of this process."""
        return replies.reply_queue(self._exchange)

    def as_uri(self, include_password: bool = False) -> str:  # noqa: ARG002
        """Where results are, for people."""
        return f"s3://{self.bucket}/{self.objects.prefix}"

    # Publishing: each message says where its result is to be sent.

    def on_task_call(self, producer: object, task_id: str) -> Mapping[str, Any]:  # noqa: ARG002
        """Celery is about to publish a task whose result somebody may want."""
        _publishing.task_id, _publishing.backend = task_id, self
        return {}

    def reply_address(self, task_id: str, given: str | None) -> str:
        """The address for the result of a task that is being published.

        The result of what a task publishes goes to where its own goes. So a worker that waits
        for nothing has no reply queue; one that has waited before is told of its subtasks as
        well.

        Args:
            task_id: the task.
            given: the message's ``reply_to``: addresses already, as in a retry, or an id that
                Celery made in this process or, for what was frozen into a chain, elsewhere.

        Returns:
            One or two addresses with a comma between; empty where nobody is to be told.
        """
        if self._exchange.addresses(given):
            return str(given)
        mine = self.replies
        task = get_current_worker_task()
        addresses = self._exchange.addresses(task.request.reply_to)[:1] if task else []
        made_here = given == self.app.thread_oid
        if not task or (made_here and mine.live_since is not None):
            mine.note_published(task_id)
            addresses.append(mine.address)
        return ",".join(addresses)

    # States.

    def mark_as_failure(self, task_id: str, exc: Exception, *args: Any, **kwargs: Any) -> Any:
        """Store the failure of a task and of what was to follow it; see Celery's own."""
        with self._answering_as(args[1] if len(args) > 1 else kwargs.get("request")):
            return super().mark_as_failure(task_id, exc, *args, **kwargs)

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = bytes_to_str(task_id)
        payload: str | bytes | None = self.encode(meta)
        key = self.get_key_for_task(task_id)
        kept = State(state, ensure_bytes(payload), self._lifetime_s(state))
        if state not in STORED_AT_ONCE:
            self._states.report(key, kept)
        elif not self._states.write(key, kept):
            if state not in states.READY_STATES:
                return result  # a stale worker's
            state, payload = states.SUCCESS, None  # the one that stands there counts
        reply = Reply(meta["task_id"], state, time.time(), payload)
        for address in self._addresses(request):
            replies.sender(self._exchange).send(address, reply)
        return result

    def _lifetime_s(self, state: str) -> float | None:
        lifetime_s: float | None = (
            self._failure_expires if state == states.FAILURE else self.expires
        )
        return lifetime_s

    def _addresses(self, request: Any) -> list[str]:
        """Where the news of a task goes: its own ``reply_to``, else that of the one it is of."""
        task = get_current_worker_task()
        for asked in (request, getattr(self._thread, "request", None), task and task.request):
            if addresses := self._exchange.addresses(getattr(asked, "reply_to", None)):
                return addresses
        return []

    @contextmanager
    def _answering_as(self, request: Any) -> Iterator[None]:
        """Within the block, states of tasks that have no address go to that of ``request``."""
        before = getattr(self._thread, "request", None)
        self._thread.request = request or before
        try:
            yield
        finally:
            self._thread.request = before

    # The store, as Celery's key-value backends use it.

    def get(self, key: str) -> bytes | None:
        """What is stored; None where there is nothing or it has expired."""
        return _current(self.objects.get(key))

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several at once."""
        return [_current(found) for found in self.objects.get_many(keys)]

    def set(self, key: str, value: str | bytes) -> None:
        """Store, whatever is there."""
        state = State("", ensure_bytes(value), self.expires)
        self.objects.put(key, state.body, state.metadata)

    def delete(self, key: str) -> None:
        """Remove."""
        self.objects.delete([key])

    def look_up(self, task_ids: Sequence[str]) -> dict[str, Mapping[str, Any] | None]:
        """The stored states of tasks; None for a task that has none."""
        found = self.mget([self.get_key_for_task(task_id) for task_id in task_ids])
        return {
            task_id: None if body is None else self.decode_result(body)
            for task_id, body in zip(task_ids, found, strict=True)
        }

    def cleanup(self) -> None:
        """Remove what has expired, for installations without a lifecycle rule on the bucket."""
        lifetimes = [self.expires, self._failure_expires]
        if not all(lifetimes):
            return
        oldest = datetime.now(UTC) - timedelta(seconds=max(lifetimes))
        for prefix in (self.task_keyprefix, self.group_keyprefix, self.chord_keyprefix):
            old = [item.key for item in self.objects.list(prefix) if item.modified < oldest]
            self.objects.delete(old)

    def _get_task_meta_for(self, task_id: str) -> Mapping[str, Any]:
        if self.result_consumer.answers_pending(task_id):
            return dict(PENDING)
        found: Mapping[str, Any] = super()._get_task_meta_for(task_id)
        return found

    def _forget(self, task_id: str) -> None:
        self.replies.forget(task_id)
        super()._forget(task_id)

    # Waiting; `AsyncBackendMixin` has the rest.

    def iter_native(
        self,
        result: Any,
        no_ack: bool = True,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Any]]:
        """The members of a set as they end: ``(id, meta)``, or ``(id, results)`` of a group."""
        self._ensure_not_eager()
        waiting = list(result.results)
        if not waiting:
            return
        for _ in self._wait_for_pending(result, no_ack=no_ack, **kwargs):
            _raise_for_ancestors(result)
            ended = [member for member in waiting if _has_ended(member)]
            if ended:
                waiting = [member for member in waiting if not _has_ended(member)]
            yield from map(_outcome, ended)
        yield from map(_outcome, waiting)

    # Chords.

    def apply_chord(self, header_result_args: Sequence[Any], body: Any, **_: Any) -> None:
        """Prepare to count the members of a header that is about to be published."""
        group_id, members = header_result_args[0], header_result_args[1]
        shape = None
        if not isinstance(members, _regen):
            header = self.app.GroupResult(*header_result_args)
            if any(isinstance(member, GroupResult) for member in header.results):
                shape = ensure_bytes(self.encode({"result": header.as_tuple()}))
        if self._chord(group_id).begin(shape):
            body.options[fifo.RUN] = uuid.uuid4().hex  # not a repetition, which SQS would swallow

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """The last member of a header is about to be published; this is how many there are."""
        self._chord(group_id).set_size(chord_size)

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """A running member adds another one."""
        self._chord(chord_id).add_member(result.id)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        """A member has ended: count it, and start the body with the last one."""
        group_id, task_id = request.group, request.id
        if not group_id or not task_id:
            return
        chord = self._chord(group_id)
        encoded = self.encode_result(result, state)
        part = Part(task_id, request.group_index, state, encoded)
        chord.end_member(part, ensure_bytes(self.encode([1, task_id, state, encoded])))
        if not chord.may_be_complete():
            return
        count = chord.count()
        if count.done:
            chord.drop(part)
            return
        claim = chord.claim(task_id) if count.complete else Claim.ANOTHERS
        if claim is Claim.ANOTHERS:
            return
        body = maybe_signature(request.chord, app=self.app)
        if claim is Claim.MINE or not (body.id and self.task_result_exists(body.id)):
            with self._answering_as(request):
                self._start_body(chord, count, body, request)
        chord.close()

    def _start_body(self, chord: Chord, count: Count, body: Any, request: Any) -> None:
        if addresses := self._addresses(request):
            body.options["reply_to"] = ",".join(addresses)
        try:
            results = self._header_results(chord, count)
        except ChordError as error:
            log.exception("chord %s failed", request.group)
            self.chord_error_from_stack(body, error)
            return
        try:
            self.app.amqp._retry_publish(body.delay, results)  # noqa: SLF001
        except Exception as error:
            log.exception("the body of chord %s was not published", request.group)
            failure = ChordError(f"Callback error: {error!r}")
            failure.__cause__ = error
            self.chord_error_from_stack(body, failure)

    def _header_results(self, chord: Chord, count: Count) -> list[Any]:
        """What the body is called with.

        Raises:
            ChordError: a member failed; names the first in the order of the header.
        """
        decoded = [self.decode(body) for body in chord.parts(count)]
        results = {}
        for _, task_id, state, encoded in decoded:
            results[task_id] = self._part_result(task_id, state, encoded)
        shape = chord.header() if count.has_header else None
        if shape is None:
            return list(results.values())
        header = result_from_tuple(self.decode(shape)["result"], self.app)
        return [self._shaped(member, results) for member in header.results]

    def _part_result(self, task_id: str, state: str, encoded: Any) -> Any:
        if state not in self.EXCEPTION_STATES:
            return encoded
        error = self.exception_to_python(encoded)
        if state in states.PROPAGATE_STATES:
            raise ChordError(f"Dependency {task_id} raised {error!r}") from error
        return error

    def _shaped(self, member: Any, results: Mapping[str, Any]) -> Any:
        """The result of one member of the header; a list of them for a group in it."""
        if isinstance(member, GroupResult):
            return [self._shaped(inner, results) for inner in member.results]
        if member.id in results:
            return results[member.id]
        meta = self.get_task_meta(member.id)
        return self._part_result(member.id, meta["status"], meta["result"])

    def _chord(self, group_id: str) -> Chord:
        return Chord(self.objects, f"{self.get_key_for_chord(group_id)}/")


def _s3_access(conf: Mapping[str, Any]) -> Access:
    return Access(
        region=conf.get("s3_region"),
        endpoint_url=conf.get("s3_endpoint_url"),
        access_key_id=conf.get("s3_access_key_id"),
        secret_access_key=conf.get("s3_secret_access_key"),
    )


def _exchange(conf: Mapping[str, Any]) -> Exchange:
    options = conf.get("broker_transport_options") or {}
    access = Access(region=options.get("region"), endpoint_url=options.get("endpoint_url"))
    return Exchange(
        prefix=options.get("queue_name_prefix", ""),
        access=access,
        wait_s=min(replies.MAX_WAIT_S, int(options.get("wait_time_seconds", replies.MAX_WAIT_S))),
    )


def _current(found: Stored | None) -> bytes | None:
    """The content of an object that counts still."""
    if found is None:
        return None
    expires = found.metadata.get(EXPIRES)
    if expires is not None and time.time() >= float(expires):
        return None
    return found.body


def _raise_for_ancestors(result: Any) -> None:
    """Raise the error of what was to run before: after it, the members never do."""
    for before in ancestors(result):
        if before._cache is not None:  # noqa: SLF001
            before.maybe_throw()


def _has_ended(member: Any) -> bool:
    if isinstance(member, GroupResult):
        return bool(member.on_ready.ready)
    return member._cache is not None  # noqa: SLF001


def _outcome(member: Any) -> tuple[str, Any]:
    if isinstance(member, GroupResult):
        return member.id, member.children
    return member.id, member._get_task_meta()  # noqa: SLF001


_publishing = threading.local()


def _set_reply_to(
    headers: Mapping[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    **_: object,
) -> None:
    """Put the address into a message; Celery's own ``reply_to`` is an id that SQS cannot reach."""
    backend = getattr(_publishing, "backend", None)
    if backend is None or not headers or properties is None:
        return
    _publishing.backend = None
    if headers.get("id") == _publishing.task_id:
        properties["reply_to"] = backend.reply_address(
            _publishing.task_id, properties.get("reply_to")
        )


signals.before_task_publish.connect(_set_reply_to, dispatch_uid=__name__)
