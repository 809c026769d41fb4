"""What makes a worker unwell, for faults that cannot be had in a real one here."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from celery.worker import state

from cis_tasks import trace_context
from cis_tasks.broker import leases
from cis_tasks.broker.flush import JobQueue
from cis_tasks.worker import probes, vitals
from cis_tasks.worker.probes import Reading
from support.cloud import eventually


def test_a_keeper_of_leases_that_hangs_is_told_and_one_that_fails_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended, failures = threading.Event(), list[int]()

    class Failing:
        def change_message_visibility_batch(self, **_: object) -> None:
            failures.append(1)
            raise EndpointConnectionError(endpoint_url="https://sqs")

    class Hanging:
        def change_message_visibility_batch(self, **_: object) -> None:
            ended.wait()
            raise EndpointConnectionError(endpoint_url="https://sqs")

    monkeypatch.setattr(leases, "LATE_S", 0.5)
    message = {"ReceiptHandle": "h", "MessageId": "m"}
    failing, hanging = leases.Leases(), leases.Leases()
    failing.add(JobQueue("q", "u", Failing(), 1), [message])
    hanging.add(JobQueue("q", "u", Hanging(), 1), [message])
    eventually(lambda: "late" in hanging.trouble)
    eventually(lambda: len(failures) > 5)
    assert failing.trouble == ""
    ended.set()
    for each in (failing, hanging):
        each.close(0.1)


def test_a_loop_that_does_not_turn_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    consumer = SimpleNamespace(hub=SimpleNamespace(call_soon=calls.append), pool=object())
    loop = vitals.Loop(consumer)
    assert loop.read().ok
    calls[0]()  # it turned
    assert loop.read().ok
    monkeypatch.setattr(vitals, "LOOP_SILENT_S", 0.0)
    eventually(lambda: not loop.read().ok)
    monkeypatch.setattr(state, "should_stop", 0)  # it finishes its job: that may take long
    assert loop.read().ok


def test_a_gpu_that_is_gone_is_told() -> None:
    class Nvml:
        NVML_TEMPERATURE_GPU = 0
        degrees: Any = staticmethod(lambda _handle, _kind: 55)

        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
            return index

        def nvmlDeviceGetTemperature(self, handle: int, kind: int) -> int:  # noqa: N802
            return self.degrees(handle, kind)

    def lost(_handle: int, _kind: int) -> int:
        raise OSError("GPU is lost")

    nvml = Nvml()
    gpus = vitals.Gpus(nvml, 2)
    probes.register("gpu", gpus.read, live=True)
    try:
        assert probes.examine().readings["gpu"] == Reading(ok=True, detail="55 °C, 55 °C")
        nvml.degrees = lost
        health = probes.examine()
        assert not health.live
        assert "GPU is lost" in health.troubles["gpu"]
    finally:
        probes.forget("gpu")


def test_a_cold_model_is_live_and_not_ready() -> None:
    warm = False
    probes.register("model", lambda: Reading(warm, "efficientnet"), live=False)
    try:
        assert (probes.examine().live, probes.examine().ready) == (True, False)
        warm = True
        assert probes.examine().ready
    finally:
        probes.forget("model")


@pytest.mark.parametrize(
    "text",
    [None, 7, "", "00-1-2-01", f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01"],
)
def test_what_is_no_trace_is_none(text: object) -> None:
    assert trace_context.valid(text) == ""


def test_a_trace_is_handed_on_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited, headers = f"00-{'a' * 32}-{'b' * 16}-01", dict[str, object]()
    trace_context.inject(headers, inherited)
    assert headers == {}
    monkeypatch.setenv("CIS_TRACING", "1")
    trace_context.inject(headers, inherited)
    assert headers == {"traceparent": inherited}
    trace_context.inject(headers, f"00-{'c' * 32}-{'b' * 16}-01")
    assert headers == {"traceparent": inherited}  # what is there stays
    fresh: dict[str, object] = {}
    trace_context.inject(fresh)
    assert trace_context.valid(fresh["traceparent"])
