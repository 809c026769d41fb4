"""A connection takes with it what it opened."""

from __future__ import annotations

from pathlib import Path

from jobs import Jobs
from kombu.asynchronous import Hub


def open_sockets() -> set[str]:
    """Those of this process, by inode."""
    links = Path("/proc/self/fd").iterdir()
    return {name for fd in links if (name := _name(fd)).startswith("socket:")}


def _name(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except FileNotFoundError:  # that of the listing itself
        return ""


def test_a_closed_connection_leaves_no_socket_and_its_loop_nothing_to_watch(jobs: Jobs) -> None:
    loop = Hub()
    before = open_sockets()
    connection = jobs.app.connection_for_read()
    transport = connection.transport
    transport.register_with_event_loop(connection.connection, loop)
    watched = set(loop.readers)
    assert watched
    assert open_sockets() > before

    connection.close()

    assert not watched & set(loop.readers)
    assert open_sockets() == before
    loop.close()
