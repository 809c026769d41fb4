"""What can go wrong with the laptop cloud."""

from __future__ import annotations

from cis_tasks.errors import CisError


class CloudError(CisError):
    """A part of the cloud could not be started or set up; says which, why and where its log is."""
