"""AWS's refusals as our errors, for commands that people type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError

from cis_tasks.errors import PermanentError, TransientError

REFUSALS = {"AccessDenied", "AccessDeniedException", "403", "UnauthorizedOperation"}


@contextmanager
def asking(doing: str) -> Iterator[None]:
    """Tell in our own words what AWS refused inside the block.

    Args:
        doing: what was being done, as in "Could not <doing>".

    Raises:
        PermanentError: the caller has no right to it.
        TransientError: AWS did not do it.
    """
    try:
        yield
    except ClientError as error:
        if refused(error):
            raise PermanentError(
                "not_allowed",
                f"AWS does not let you {doing}: {error}.",
                "Use credentials that have the right, as docs/operations.md lists them.",
            ) from error
        raise _unavailable(doing, error) from error
    except BotoCoreError as error:
        raise _unavailable(doing, error) from error


def refused(error: ClientError) -> bool:
    """Whether AWS says that the caller has no right to a call."""
    return error.response.get("Error", {}).get("Code", "") in REFUSALS


def _unavailable(doing: str, error: Exception) -> TransientError:
    return TransientError("aws_unavailable", f"Could not {doing}: {error}.")
