"""The worker's consumer: no message stops it, and on its way out it hoards none."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

from celery import bootsteps, signals
from celery.exceptions import NotRegistered
from celery.utils.objects import Bunch
from celery.worker import consumer as stock
from celery.worker import state
from celery.worker.consumer.tasks import Tasks
from vine import ppartial  # type: ignore[import-untyped]

from cis_tasks.broker import calls, leases, limits, poison, receiver
from cis_tasks.broker.events import Reporting

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
LONGEST_NAME = 200  # of an unknown task, in the log
EXIT_TIMEOUT_S = 10.0  # for acknowledgements that are still on their way


class Shutdown(bootsteps.StartStopStep):  # type: ignore[misc]  # celery is untyped
    """Gives unstarted messages back as soon as the worker is told to stop."""

    name = "Give messages back"
    requires = (Tasks,)

    def __init__(self, c: Consumer, **kwargs: Any) -> None:
        self._handled: dict[int, Any] = {}
        super().__init__(c, **kwargs)

    def start(self, c: Consumer) -> None:
        """Watch for signals; Celery has set its own handlers by now."""
        channel_leases = c.job_leases()
        if channel_leases is not None:
            channel_leases.outlive_channel = True
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._watch(c, number)

    def info(self, c: Consumer) -> dict[str, Any]:
        """For ``celery inspect stats``: what this process has cost so far, and its broker.

        Celery would send the queues' URLs and credentials to whoever asks, and nothing at all
        where they are no plain dict.
        """
        stats: dict[str, Any] = {"aws_calls": calls.made()}
        if c.connection:
            broker = c.connection.info()
            options = dict(broker["transport_options"])
            options["predefined_queues"] = sorted(options.get("predefined_queues") or ())
            stats["broker"] = {**broker, "password": None, "transport_options": options}
        return stats

    def _watch(self, c: Consumer, number: int) -> None:
        theirs, pid = signal.getsignal(number), os.getpid()
        if not callable(theirs) or self._handled.get(number) is theirs:
            return

        def on_signal(*args: Any) -> None:
            if os.getpid() == pid:
                # A soft shutdown sleeps in its handler before anybody else is told.
                c.give_back(cold=number == signal.SIGQUIT or theirs.__name__ == "worker_Cold")
            theirs(*args)

        on_signal.__name__ = getattr(theirs, "__name__", "on_signal")
        signal.signal(number, on_signal)
        self._handled[number] = on_signal


class Consumer(Reporting, stock.Consumer):  # type: ignore[misc]  # celery is untyped
    """Celery's consumer for `cis_tasks.broker.transport`; set it as ``worker_consumer``."""

    class Blueprint(stock.Consumer.Blueprint):  # type: ignore[misc]  # celery is untyped
        """Celery's steps and our own."""

        default_steps = (*stock.Consumer.Blueprint.default_steps, Shutdown)

    def call_soon_ack(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Settle a message at once: it needs no event loop, which may have ended already."""
        call = ppartial(p, *args, **kwargs)
        try:
            call()
        except Exception:
            logger.exception("A message could not be settled")
        return call

    # ------------------------------------------------------------------ the end

    def job_leases(self) -> leases.Leases | None:
        """The leases of the channel that jobs come from."""
        channel = self.task_consumer and self.task_consumer.channel
        return getattr(channel, "leases", None)

    def give_back(self, *, cold: bool) -> None:
        """Stop receiving and give unstarted messages back, from a signal handler.

        Args:
            cold: whether the event loop stands still from now on, so that it cannot do its part
                itself. What it has taken but not started is then given back too.
        """
        held = self.job_leases()
        if held is None:
            return
        self.task_consumer.channel.stop_receiving()
        if cold:
            busy = busy_handles()
            self._forget_waiting()
            held.release_others(busy)
        else:
            held.release_others((), held_only=True)
            if self.hub is not None:  # from a thread: the loop's own calls do not wake it
                wake = threading.Thread(target=self.hub.call_soon, args=(_nothing,), daemon=True)
                wake.start()

    def on_close(self) -> None:
        """Forget what has not been started, and give it back."""
        busy = busy_handles()
        super().on_close()
        for held in leases.alive():
            if held.outlive_channel:
                held.release_others(busy)

    def shutdown(self) -> None:
        """End: what is left or still comes goes back to its queue, what is done is deleted."""
        super().shutdown()
        if threading.current_thread() is threading.main_thread():  # else the process goes on
            receiver.end_all()
        for held in leases.alive():
            if held.outlive_channel:
                held.close(EXIT_TIMEOUT_S)
        calls.log()

    def _forget_waiting(self) -> None:
        if self.controller and self.controller.semaphore:
            self.controller.semaphore.clear()
        for bucket in self.task_buckets.values():
            if bucket:
                bucket.clear_pending()
        for request in tuple(state.scheduled_requests):
            entry = request._eta_timer_entry  # noqa: SLF001
            if entry is not None and self.timer is not None:
                self.timer.cancel(entry)

    # ------------------------------------------------------------------ what is no task

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Celery's handler of messages, past a look at each."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> Any:
            try:
                if isinstance(message.headers, dict) and "task" in message.headers:
                    poison.check_task(message)
                return handle(message)
            except MemoryError:
                raise
            except Exception as error:
                return self._refuse(message, error)

        return on_task_received

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Leave a message without a task to the redrive policy."""
        self._refuse(message, "it names no task", body)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Leave a message that Celery takes for invalid to the redrive policy."""
        self._refuse(message, exc, body)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Leave an undecodable message to the redrive policy; Celery would delete it."""
        self._refuse(message, exc)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Leave a task that is not registered here to the redrive policy; its result says so."""
        headers, name = message.headers, message.headers.get("task")
        if name is None:
            payload = message.payload  # of protocol 1
            headers, name = payload, payload["task"]
        missing = NotRegistered(name)
        self._refuse(message, f"{str(name)[:LONGEST_NAME]!r} is not registered here", body)
        request = Bunch(
            name=name,
            chord=None,
            root_id=headers.get("root_id"),
            correlation_id=message.properties.get("correlation_id"),
            reply_to=message.properties.get("reply_to"),
            errbacks=None,
        )
        self.app.backend.mark_as_failure(headers["id"], missing, request=request)
        if self.event_dispatcher:
            self.event_dispatcher.send(
                "task-failed", uuid=headers["id"], exception=f"NotRegistered({name!r})"
            )
        signals.task_unknown.send(
            sender=self, message=message, exc=exc, name=name, id=headers["id"]
        )

    def _refuse(self, message: Any, reason: object, body: Any = None) -> None:
        info = message.delivery_info or {}
        headers = message.headers if isinstance(message.headers, dict) else {}
        known = info.get("sqs_message", {}).get("MessageId") or headers.get("id")
        where = str(info.get("sqs_queue")).rpartition("/")[2]
        poison.report(where, f"message {known}", reason, message.body or body)
        if not message.acknowledged:
            message.reject_log_error(logger, self.connection_errors)
        error = reason if isinstance(reason, Exception) else None
        signals.task_rejected.send(sender=self, message=message, exc=error)


def busy_handles() -> set[str]:
    """Receipt handles of the messages that the pool has begun, or can no longer be kept from."""
    return {request.message.delivery_tag for request in _busy_requests()}


def _busy_requests() -> Iterable[Any]:
    yield from tuple(state.active_requests)
    for request in tuple(state.reserved_requests):
        if request not in state.active_requests and not _withdraw(request):
            yield request


def _withdraw(request: Any) -> bool:
    """Keep a request from being started; False where it may have been."""
    reference = request._apply_result  # noqa: SLF001
    result = reference and reference()
    if result is None:
        return True
    future = getattr(result, "f", None)  # of a pool of threads, which queues more than it runs
    return bool(future is not None and future.cancel())


def _nothing() -> None:
    """Wake the event loop."""


def _log_calls_of_child(**_: Any) -> None:
    with contextlib.suppress(Exception):
        calls.log()


signals.worker_process_shutdown.connect(_log_calls_of_child, weak=False)
limits.install()
