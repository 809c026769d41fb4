"""What makes a worker cheap to watch: events in batches, heartbeats now and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from celery.events import EventDispatcher

logger = logging.getLogger(__name__)

HEARTBEAT_S = 180.0  # 20 calls an hour; a monitor takes a worker for dead after twice that
WINDOW_S = 1.0
MAX_COLLECTED = 100_000  # events; Celery sends from the event loop where there are more
MAX_CHARACTERS = 96 << 10  # of one message, which SNS limits to 256 KiB encoded


class Reporting:
    """Mixin of a worker's consumer: its events cost little, and no command stops it.

    Celery sends each task's three events one by one and a heartbeat every two seconds. This
    collects task events for a window and sends them as one message, and lets the heart beat
    every three minutes, unless ``--heartbeat-interval`` says otherwise. A command to consume from
    a queue that there is not is refused; Celery would go down with it.

    Put it before ``celery.worker.consumer.Consumer``.
    """

    def __init__(self, *args: Any, app: Any, **options: Any) -> None:
        worker_options = dict(options.pop("worker_options", None) or {})
        if worker_options.get("heartbeat_interval") is None:
            worker_options["heartbeat_interval"] = HEARTBEAT_S
        install(app)
        options.update(app=app, worker_options=worker_options)
        super().__init__(*args, **options)

    def on_send_event_buffered(self) -> None:
        """Nothing: the dispatcher's own thread sends what it has collected."""

    def add_task_queue(self, queue: str, *args: Any, **options: Any) -> None:
        """Consume from another queue, where there is one."""
        app = self.app  # type: ignore[attr-defined]  # the consumer's
        predefined = app.conf.broker_transport_options.get("predefined_queues", {})
        if predefined and queue not in predefined:
            logger.error("Does not consume from %s: it is not in predefined_queues", queue)
        else:
            super().add_task_queue(queue, *args, **options)  # type: ignore[misc]


def install(app: Any) -> None:
    """Let ``app.events.Dispatcher`` be ours."""
    app.events.dispatcher_cls = f"{__name__}:Dispatcher"
    app.events.__dict__.pop("Dispatcher", None)  # a cached property


class Dispatcher(EventDispatcher):  # type: ignore[misc]  # celery is untyped
    """Sends collected events from a thread of its own, at the latest when it is closed.

    Celery sends them from the event loop, which waits for each call to AWS, and which a solo
    pool's task blocks.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._collected = threading.Event()
        self._ended = threading.Event()
        options.update(on_send_buffered=self._collected.set, buffer_limit=MAX_COLLECTED)
        super().__init__(*args, **options)

    def enable(self) -> None:
        """Send from now on."""
        super().enable()
        if self.buffer_group:
            self._collected, self._ended = threading.Event(), threading.Event()
            self.on_send_buffered = self._collected.set
            arguments = (self._collected, self._ended)
            threading.Thread(
                target=self._send_collected, args=arguments, name="events", daemon=True
            ).start()

    def _publish(self, event: Any, *args: Any, **options: Any) -> None:
        """Send an event, or what was collected, in messages that are not too large."""
        for message in messages(event) if isinstance(event, list) else (event,):
            super()._publish(message, *args, **options)

    def close(self) -> None:
        """Send what is left, and end."""
        self._ended.set()
        self._collected.set()
        self._send_rest()
        super().close()

    def _send_collected(self, collected: threading.Event, ended: threading.Event) -> None:
        window_s = self.app.conf.broker_transport_options.get("event_window_seconds", WINDOW_S)
        while not ended.is_set():
            collected.wait()
            ended.wait(window_s)  # let others join the first
            collected.clear()
            try:
                self.flush()
            except Exception:  # the thread must outlive one failure; the events stay collected
                logger.exception("Events could not be sent")
                collected.set()

    def _send_rest(self) -> None:
        """Through a connection of its own: Celery closes the dispatcher's first."""
        if not any(self._group_buffer.values()) and not self._outbound_buffer:
            return
        try:
            with self.app.connection_for_write() as connection:
                with self.mutex:
                    self.producer = connection.Producer(
                        exchange=self.exchange, serializer=self.serializer, auto_declare=False
                    )
                self.flush()
        except Exception:
            logger.exception("The last events could not be sent")


def messages(events: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Cut events into messages that SNS takes."""
    message: list[Mapping[str, Any]] = []
    size = 0
    for event in events:
        characters = 500 + sum(len(value) for value in event.values() if isinstance(value, str))
        if message and size + characters > MAX_CHARACTERS:
            yield message
            message, size = [], 0
        message.append(event)
        size += characters
    if message:
        yield message
