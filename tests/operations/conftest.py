from __future__ import annotations

import pytest

from cis_tasks.operations import reading


@pytest.fixture(autouse=True)
def _one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator has one server, so that a short poll sees all."""
    monkeypatch.setattr(reading, "WAIT_S", 0)
