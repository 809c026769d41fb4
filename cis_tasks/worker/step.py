"""What a worker of the image pipeline does beside its tasks: it is warm, and tells how it goes.

Loaded by every worker of the app; it does nothing in those of other queues.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.signals import worker_process_init

from cis_tasks.app import app
from cis_tasks.pipelines import find

PIPELINE = "image"


class Models(bootsteps.StartStopStep):  # type: ignore[misc]  # celery is untyped
    """Loads the model before the first job is taken, so that no job waits for it.

    Its figures are in the answers to ``celery inspect stats``, as ``image``.
    """

    requires = ("celery.worker.components:Pool",)

    def include_if(self, worker: Any) -> bool:
        """Only where jobs of this pipeline are worked on."""
        return find(PIPELINE).queue in worker.app.amqp.queues.consume_from

    def create(self, worker: Any) -> None:
        """Let the processes of a pool load the model themselves: CUDA must not be forked."""
        self._in_children = worker.pool_cls.__module__.endswith("prefork")
        if self._in_children:
            worker_process_init.connect(warm_up, weak=False)

    def start(self, _worker: Any) -> None:
        """Load the model, where its threads share it.

        Raises:
            PermanentError: the model that is set cannot be used.
            SettingsError: the device or the runtime that is set cannot be had.
        """
        if not self._in_children:
            warm_up()

    def info(self, _worker: Any) -> dict[str, Any]:
        """For ``celery inspect stats``."""
        from cis_tasks.worker.figures import figures  # noqa: PLC0415

        return {PIPELINE: figures.snapshot().to_dict()}


def warm_up(**_: object) -> None:
    """Load the model that is set, and run it."""
    from cis_tasks.worker.serving import servers  # noqa: PLC0415  spine workers need none of it

    servers.get()


app.steps["worker"].add(Models)
