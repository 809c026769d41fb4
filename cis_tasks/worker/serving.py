"""Models as a worker serves them: loaded once, warm, on every device, in batches where it pays."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import structlog

from cis_tasks.image.frame import Pixels, frame
from cis_tasks.image.models import Bundle, Model, Scores, default_cache, devices, load
from cis_tasks.settings import settings
from cis_tasks.worker.batcher import MicroBatcher
from cis_tasks.worker.figures import figures
from cis_tasks.worker.references import find_bundle

MAX_MODELS = 4  # of jobs that bring their own; the one used longest ago goes

HandIn: TypeAlias = Callable[[Pixels], Scores]
"""Takes a framed image, gives the probability of each class."""

log = structlog.get_logger(__name__)


class Lane(Protocol):
    """A model on one device, shared by threads."""

    @property
    def load(self) -> int:
        """How much it has to do."""

    def announced(self) -> AbstractContextManager[HandIn]:
        """See `MicroBatcher.announced`."""

    def close(self) -> None:
        """Finish, and let the device go."""


class Direct:
    """A model that each thread runs for itself, no more of them at a time than there are cores.

    On a CPU an image costs the same alone as in a batch, and one thread that ran batches would
    leave the other cores idle.
    """

    def __init__(self, model: Model, slots: int) -> None:
        self._model = model
        self._slots = threading.BoundedSemaphore(slots)
        self.load = 0

    @contextmanager
    def announced(self) -> Iterator[HandIn]:
        """See `Lane`."""
        yield self._score

    def close(self) -> None:
        """See `Lane`."""

    def _score(self, image: Pixels) -> Scores:
        with self._slots:
            started = time.perf_counter()
            [scores] = self._model.score([image])
        figures.batch(1, time.perf_counter() - started)
        return np.asarray(scores)


class Server:
    """One model on all devices.

    Attributes:
        bundle: what the model is.
        runtime: what runs it.
        devices: where.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        """Make the lanes.

        Args:
            models: the same on each device, warm.
        """
        self.bundle = models[0].bundle
        self.runtime = models[0].runtime.name
        self.devices = tuple(model.runtime.device for model in models)
        self._lanes = [_lane(model) for model in models]

    def announced(self) -> AbstractContextManager[HandIn]:
        """Announce an image to the device that has least to do."""
        return min(self._lanes, key=lambda lane: lane.load).announced()

    def close(self) -> None:
        """Finish, and let the devices go."""
        for lane in self._lanes:
            lane.close()


class Servers:
    """The models that this process has loaded."""

    def __init__(self, limit: int = MAX_MODELS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._servers: OrderedDict[str, Server] = OrderedDict()

    def get(self, reference: str = "") -> Server:
        """The server of a model, loaded and warm; the setting's model if ``reference`` is empty.

        Raises:
            PermanentError: the model cannot be used.
            SettingsError: the device or the runtime that is set cannot be had.
            TransientError: S3 did not answer.
        """
        wanted = reference or settings().image_model
        with self._lock:
            own = self._loading.setdefault(wanted, threading.Lock())
        with own:  # others that want the same one wait; those that want another do not
            with self._lock:
                if wanted in self._servers:
                    self._servers.move_to_end(wanted)
                    return self._servers[wanted]
            server = start(wanted)
            with self._lock:
                self._servers[wanted] = server
                retired = self._retire(keep=settings().image_model)
        for one in retired:
            threading.Thread(target=one.close, daemon=True).start()
        return server

    def _retire(self, keep: str) -> list[Server]:
        names = [name for name in self._servers if name != keep]
        return [self._servers.pop(name) for name in names[: len(self._servers) - self._limit]]


servers = Servers()
"""Of this process."""


def start(reference: str) -> Server:
    """Load a model onto every device that is set, and run all that the first job will need."""
    cache = settings().image_cache or default_cache()
    found = find_bundle(reference, cache)
    server = Server([_ready(found, device, cache) for device in devices(settings().image_device)])
    figures.serve(
        f"{server.bundle.card.name} {server.bundle.version}", server.runtime, server.devices
    )
    log.info(
        "model_ready",
        model=server.bundle.card.name,
        version=server.bundle.version,
        runtime=server.runtime,
        devices=server.devices,
    )
    return server


def _ready(bundle: Bundle, device: str, cache: Path) -> Model:
    model = load(bundle, runtime=settings().image_runtime, device=device, cache=cache)
    height, width = bundle.card.preprocess.size
    blank = frame(np.zeros((2 * height, 2 * width, 3), np.uint8), bundle.card.preprocess)
    sizes = model.runtime.batches if model.runtime.device != "cpu" else [1]
    for size in sizes:
        model.score([blank] * size)
    return model


def _lane(model: Model) -> Lane:
    if model.runtime.device == "cpu":
        return Direct(model, cores())
    return MicroBatcher(
        lambda images: list(model.score(images)),
        max_batch=min(settings().image_batch, model.runtime.batches[-1]),
        name=f"batches-{model.runtime.device}",
        observe=figures.batch,
    )


def cores() -> int:
    """Cores that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
