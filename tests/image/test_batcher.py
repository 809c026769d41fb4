"""Many threads, one device: batches form by themselves, and a bad item fails alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cis_tasks.worker.batcher import MicroBatcher
from cis_tasks.worker.figures import Figures
from cis_tasks.worker.gpus import Gpu
from cis_tasks.worker.metrics import Images
from support.cloud import eventually


class Device:
    """Squares numbers; keeps the batches that it was given, and can be made to wait."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def run(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.entered.set()
        assert self.free.wait(30)
        if any(item < 0 for item in items):
            raise ValueError(f"negative among {len(items)}")
        return [item * item for item in items]


@contextmanager
def batcher(device: Device, **options: object) -> Iterator[MicroBatcher[int, int]]:
    made = MicroBatcher(device.run, **{"max_batch": 8, "max_wait_s": 30.0, **options})
    try:
        yield made
    finally:
        device.free.set()
        made.close()


def hand_in(to: MicroBatcher[int, int], item: int) -> int:
    with to.announced() as submit:
        return submit(item)


def while_busy(device: Device, to: MicroBatcher[int, int], items: list[int]) -> list[object]:
    """Hand all in while the device runs another; their results or errors."""
    device.free.clear()
    with ThreadPoolExecutor(len(items) + 1) as threads:
        first = threads.submit(hand_in, to, 0)
        assert device.entered.wait(30)
        futures = [threads.submit(hand_in, to, item) for item in items]
        eventually(lambda: to.load == len(items) + 1, every_s=0.001)
        device.free.set()
        assert first.result(30) == 0
        return [future.exception(30) or future.result() for future in futures]


def test_a_lone_item_waits_for_nobody() -> None:
    device = Device()
    with batcher(device) as one:  # whose longest wait is half a minute
        assert hand_in(one, 7) == 49
    assert device.batches == [[7]]


def test_what_comes_while_the_device_is_busy_is_one_batch_and_each_gets_its_own() -> None:
    device = Device()
    with batcher(device) as one:
        assert while_busy(device, one, [1, 2, 3, 4, 5]) == [1, 4, 9, 16, 25]
    assert [len(batch) for batch in device.batches] == [1, 5]


def test_no_batch_is_larger_than_the_device_takes() -> None:
    device = Device()
    with batcher(device, max_batch=4) as one:
        while_busy(device, one, list(range(1, 11)))
    assert max(len(batch) for batch in device.batches) == 4
    assert sum(len(batch) for batch in device.batches) == 11


def test_an_announced_item_is_waited_for_and_one_that_fails_before_is_not() -> None:
    device = Device()
    with batcher(device) as one, ThreadPoolExecutor(1) as threads:
        with one.announced():  # and never handed in, as when it cannot be decoded
            early = threads.submit(hand_in, one, 2)
            eventually(lambda: one.load == 2, every_s=0.001)
        assert early.result(30) == 4
        with one.announced() as submit:
            other = threads.submit(hand_in, one, 3)
            eventually(lambda: one.load == 2, every_s=0.001)
            assert submit(5) == 25
        assert other.result(30) == 9
    assert sorted(device.batches[-1]) == [3, 5]


def test_an_item_that_never_comes_holds_others_up_for_so_long_and_no_longer() -> None:
    device = Device()
    with batcher(device, max_wait_s=0.01) as one, ThreadPoolExecutor(1) as threads, one.announced():
        assert threads.submit(hand_in, one, 3).result(30) == 9


def test_one_bad_item_in_a_batch_fails_alone() -> None:
    device = Device()
    with batcher(device) as one:
        results = while_busy(device, one, [1, -2, 3])
        assert results[0] == 1
        assert isinstance(results[1], ValueError)
        assert results[2] == 9
        assert hand_in(one, 4) == 16
    assert [len(batch) for batch in device.batches] == [1, 3, 1, 1, 1, 1]


def test_what_was_handed_in_is_finished_when_it_closes() -> None:
    device = Device()
    with ThreadPoolExecutor(4) as threads, batcher(device) as one:
        device.free.clear()
        futures = [threads.submit(hand_in, one, item) for item in (1, 2, 3)]
        eventually(lambda: one.load == 3, every_s=0.001)
    assert [future.result(30) for future in futures] == [1, 4, 9]
    with pytest.raises(RuntimeError, match="closed"):
        hand_in(one, 1)


def test_figures_tell_rates_of_the_last_minute_and_totals_since_the_start() -> None:
    now = 0.0
    figures = Figures(clock=lambda: now)
    figures.serve("efficientnet-lite0 1", "torch", ["cuda:0"])
    figures.batch(32, 0.5)
    now = 100.0
    figures.batch(8, 0.25)
    figures.batch(8, 0.25)
    figures.failure()
    seen = figures.snapshot()
    assert (seen.images, seen.failures, seen.batches) == (48, 1, {8: 2, 32: 1})
    assert seen.images_per_s == pytest.approx(16 / 60)
    assert seen.busy == pytest.approx(0.5 / 60)
    assert seen.mean_batch == 16
    assert seen.to_dict()["batches"] == {"8": 2, "32": 1}


def test_figures_are_metrics_that_prometheus_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(Gpu(index, "H100", 0.25, 3 << 30, 80 << 30, 310.5, 61.0) for index in (0, 1))
    monkeypatch.setattr("cis_tasks.worker.figures.read_gpus", lambda: gpus)
    now = 0.0
    figures = Figures(clock=lambda: now)
    now = 10.0
    figures.batch(4, 0.1)
    figures.batch(32, 0.2)
    figures.failure()
    registry = CollectorRegistry()
    registry.register(Images(figures))
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    assert samples["cis_image_images_total",] == 36
    assert samples["cis_image_failures_total",] == 1
    assert samples["cis_image_images_per_second",] == pytest.approx(3.6)
    assert samples["cis_image_busy_devices",] == pytest.approx(0.03)
    assert [samples["cis_batch_size_bucket", size] for size in ("2.0", "4.0", "16.0", "32.0")] == [
        *(0, 1, 1, 2)
    ]
    assert samples["cis_batch_size_bucket", "+Inf"] == samples["cis_batch_size_count",] == 2
    assert samples["cis_batch_size_sum",] == 36
    assert samples["cis_gpu_power_watts", "1"] == 310.5
    assert samples["cis_gpu_utilization", "0"] == 0.25
