"""Probes of every worker: receiving, leases, event loop, GPUs."""

from __future__ import annotations

import importlib.util
import threading
import time
from typing import Any

from celery.worker import state

from cis_tasks.worker import probes
from cis_tasks.worker.probes import Reading

LOOP_SILENT_S = 60.0  # a loop without work wakes every ten seconds at the latest


def watch(consumer: Any, silent_s: float) -> None:
    """Register the probes of a worker's consumer.

    Args:
        consumer: Celery's consumer, ours.
        silent_s: for how long receives may fail or not come back.
    """
    loop = Loop(consumer)
    probes.register("receiving", lambda: receiving(consumer, silent_s), live=True)
    probes.register("leases", lambda: leases(consumer), live=True)
    probes.register("loop", loop.read, live=True)
    probes.register("stopping", stopping, live=False)
    gpus = Gpus.found()
    if gpus is not None:
        probes.register("gpu", gpus.read, live=True)


def receiving(consumer: Any, silent_s: float) -> Reading:
    """Does it hear of new jobs?"""
    channel = consumer.task_consumer and consumer.task_consumer.channel
    deaf_s = getattr(channel, "deaf_s", None)
    if deaf_s is None:
        return Reading(ok=False, detail="not connected")
    return Reading(deaf_s <= silent_s, f"no receive has come back for {deaf_s:.0f} s")


def leases(consumer: Any) -> Reading:
    """Are the messages that it holds kept from others?"""
    held = consumer.job_leases()
    trouble = held.trouble if held is not None else ""
    return Reading(not trouble, trouble or f"{held.open if held is not None else 0} held")


def stopping() -> Reading:
    """Is it on its way out?"""
    ends = _ends()
    return Reading(not ends, "on its way out" if ends else "")


def _ends() -> bool:
    return state.should_stop is not None or state.should_terminate is not None


class Loop:
    """Whether the event loop still turns: it is asked to set a mark.

    A solo pool's task blocks it, which is no fault while there is one. In a worker that finishes
    its jobs to end, it stands still.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._asked_s: float | None = None
        self._lock = threading.Lock()

    def read(self) -> Reading:
        """Ask it, and see how long it has not answered."""
        hub = self._consumer.hub
        if hub is None or _ends():
            return Reading(ok=True, detail="none")
        now_s = time.monotonic()
        with self._lock:
            if self._asked_s is None:
                self._asked_s = now_s
                hub.call_soon(self._answer)
            silent_s = now_s - self._asked_s
        blocked = "solo" in type(self._consumer.pool).__module__ and bool(state.active_requests)
        return Reading(blocked or silent_s <= LOOP_SILENT_S, f"silent for {silent_s:.0f} s")

    def _answer(self) -> None:
        with self._lock:
            self._asked_s = None


class Gpus:
    """Whether the GPUs that were there at the start still answer.

    Source: https://docs.nvidia.com/deploy/nvml-api/
    """

    def __init__(self, nvml: Any, count: int) -> None:
        self._nvml, self._count = nvml, count

    @classmethod
    def found(cls) -> Gpus | None:
        """Those of this machine; None where it has none."""
        if importlib.util.find_spec("pynvml") is None:
            return None
        import pynvml  # noqa: PLC0415  on GPU hosts only

        try:
            pynvml.nvmlInit()
            count = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError:
            return None
        return cls(pynvml, count) if count else None

    def read(self) -> Reading:
        """Ask each for its temperature; one that fell off the bus gives an error."""
        nvml = self._nvml
        degrees = [
            nvml.nvmlDeviceGetTemperature(
                nvml.nvmlDeviceGetHandleByIndex(index), nvml.NVML_TEMPERATURE_GPU
            )
            for index in range(self._count)
        ]
        return Reading(ok=True, detail=", ".join(f"{degree} °C" for degree in degrees))
