"""The order of the commands and jobs that one process sends.

Commands and jobs take different ways, through SNS into each worker's mailbox and through the job
queue. Without this, a task that is published right after its ``revoke`` may run, and ``inspect``
may miss one that was published right before. So each names what its process sent just before of
the other kind, and the worker that receives it first waits a moment for that.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from celery.worker import state as worker_state

RECENT_COMMAND_S = 5.0  # for how long jobs name a command
RECENT_JOB_S = 1.0  # for how long commands name a job
LONGEST_WAIT_FOR_COMMAND_S = 1.0
LONGEST_WAIT_FOR_JOB_S = 0.2  # it may be another worker's
STEP_S = 0.01
MAX_REMEMBERED = 1000  # commands that a worker has seen

AFTER_COMMAND = "AfterCommand"  # message attribute of a job
COMMAND = "command"  # headers of a command
AFTER_JOB = "after_job"


class Sent:
    """What this process has sent last.

    Its threads share it: a command and a job of two threads are in no order, and naming one does
    no harm.
    """

    def __init__(self) -> None:
        self._command: tuple[str, float] = ("", float("-inf"))
        self._job: tuple[str, float] = ("", float("-inf"))

    def mark_command(self, headers: MutableMapping[str, Any]) -> None:
        """A command is being sent; its headers say after which job."""
        self._command = (uuid.uuid4().hex, time.monotonic())
        headers[COMMAND] = self._command[0]
        if job := _recent(self._job, RECENT_JOB_S):
            headers[AFTER_JOB] = job

    def mark_job(self, task_id: str, fields: MutableMapping[str, Any]) -> None:
        """A job is being sent; the arguments of its SendMessage say after which command."""
        self._job = (task_id, time.monotonic())
        if command := _recent(self._command, RECENT_COMMAND_S):
            attribute = {"DataType": "String", "StringValue": command}
            fields.setdefault("MessageAttributes", {})[AFTER_COMMAND] = attribute


class Seen:
    """The commands that this process has acted on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._commands: OrderedDict[str, None] = OrderedDict()

    def add(self, command: str) -> None:
        """It has acted on one, or waits for it no more."""
        with self._changed:
            self._commands[command] = None
            if len(self._commands) > MAX_REMEMBERED:
                self._commands.popitem(last=False)
            self._changed.notify_all()

    def await_commands_before(self, messages: Iterable[Mapping[str, Any]]) -> None:
        """Wait for the commands that were sent before received jobs, not from the event loop."""
        for message in messages:
            attribute = message.get("MessageAttributes", {}).get(AFTER_COMMAND, {})
            command = attribute.get("StringValue")
            if command and not self._await(command):
                self.add(command)  # others do not wait for it again

    def _await(self, command: str) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: command in self._commands, LONGEST_WAIT_FOR_COMMAND_S
            )


def await_job_before(headers: Mapping[str, Any]) -> None:
    """Wait for the job that was sent before a command, not from the event loop."""
    job = headers.get(AFTER_JOB)
    until_s = time.monotonic() + LONGEST_WAIT_FOR_JOB_S
    while job and not _received(job) and time.monotonic() < until_s:
        time.sleep(STEP_S)


def _received(task_id: object) -> bool:
    if task_id in worker_state.requests:
        return True
    with contextlib.suppress(RuntimeError):  # the worker adds one meanwhile
        return any(request.id == task_id for request in tuple(worker_state.scheduled_requests))
    return False


def _recent(item: tuple[str, float], seconds: float) -> str | None:
    name, at_s = item
    return name if time.monotonic() - at_s < seconds else None


sent = Sent()
seen = Seen()


def _start_anew_in_child() -> None:
    """A forked child receives for itself, and its parent may have held the lock."""
    global seen  # noqa: PLW0603
    seen = Seen()


os.register_at_fork(after_in_child=_start_anew_in_child)
