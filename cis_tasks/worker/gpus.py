"""What NVIDIA's management library says of a machine's GPUs."""

from __future__ import annotations

import contextlib
import functools
import threading
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment; figures that it does not tell are 0.

    Attributes:
        index: NVML's.
        name: of the product.
        utilization: share of the last sample period in which any kernel ran, 0 to 1. At 1 it may
            still have room: one small kernel is enough.
        memory_used_bytes: by all processes.
        memory_bytes: that there is.
        power_w: drawn.
        temperature_c: of the chip.
    """

    index: int
    name: str
    utilization: float
    memory_used_bytes: int
    memory_bytes: int
    power_w: float
    temperature_c: float


def read_gpus() -> tuple[Gpu, ...]:
    """The machine's GPUs; none where there is no driver or no library for it.

    Source: https://docs.nvidia.com/deploy/nvml-api/
    """
    nvml = _nvml()
    if nvml is None:
        return ()
    with _lock:
        try:
            return tuple(_read(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError:
            return ()


_lock = threading.Lock()


@functools.cache
def _nvml() -> Any:
    """The library, ready; None where it cannot be had."""
    try:
        import pynvml  # noqa: PLC0415
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _read(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    told = dict.fromkeys(("utilization", "power_w", "temperature_c"), 0.0)
    with contextlib.suppress(nvml.NVMLError):
        told["utilization"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    with contextlib.suppress(nvml.NVMLError):
        told["power_w"] = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
    with contextlib.suppress(nvml.NVMLError):
        kind = nvml.NVML_TEMPERATURE_GPU
        told["temperature_c"] = float(nvml.nvmlDeviceGetTemperature(handle, kind))
    return Gpu(
        index=index,
        name=name.decode() if isinstance(name, bytes) else str(name),
        memory_used_bytes=int(memory.used),
        memory_bytes=int(memory.total),
        **told,
    )
