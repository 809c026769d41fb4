"""What can go wrong, and what each kind of failure means for a job."""

from __future__ import annotations


class CisError(Exception):
    """Root of every error that cis-tasks raises on purpose."""


class SettingsError(CisError):
    """A setting is missing or makes no sense; says which one to set, and to what."""


class JobError(CisError):
    """A job could not be done.

    The three parts travel as they are into ``manifest.json``, the result backend and the
    terminal, so that whoever reads them knows what happened, on what, and what to do.

    Attributes:
        code: stable identifier for programs, in ``snake_case``.
        message: what is wrong, with the file, sensor or value concerned.
        hint: what to do about it.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)  # Celery rebuilds the error from its args
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.message} [{self.code}]"
        return f"{text} {self.hint}" if self.hint else text


class PermanentError(JobError):
    """The input is bad: the same job would fail again. Never retried; ends in the manifest."""


class TransientError(JobError):
    """Something else was in the way: the same job may succeed later. Retried with backoff."""


class PublishError(JobError):
    """A job's message could not be put into its queue. Nothing was queued; publish again."""
