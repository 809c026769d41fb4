"""Fixtures for all tests; `support.cloud` says how to use them."""

from __future__ import annotations

import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

from support.cloud import _no_outside_aws, cloud, cloud_of_module, emulator, make_cloud

__all__ = ["_no_outside_aws", "cloud", "cloud_of_module", "emulator", "make_cloud"]

settings.register_profile("shared machines", deadline=None, max_examples=60)
settings.load_profile("shared machines")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--emulator",
        choices=("ministack", "moto"),
        default="ministack",
        help="which AWS to test against; moto is for tests/broker alone",
    )


HUNG_S = 900


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that hangs, wherever its thread waits."""

    def fail(*_: object) -> None:
        pytest.fail(f"{item.nodeid} hung for {HUNG_S} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(HUNG_S)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Failures:
    """Tells of each failure when it happens: a run that somebody ends has no summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            reason = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
            told = f"{report.nodeid} failed after {report.duration:.0f} s: {reason[:1000]}"
            self._terminal.ensure_newline()
            self._terminal.write_line(told, red=True)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(terminal))
    config.addinivalue_line(
        "markers", "not_on_moto(reason): rests on what AWS does and moto does not"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--emulator") != "moto":
        return
    for item in items:
        for mark in item.iter_markers("not_on_moto"):
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))
