"""How Celery is told to work through a pipeline."""

from __future__ import annotations

import os
from pathlib import Path

from cis_tasks.pipelines import Pipeline
from cis_tasks.settings import settings

THREADS_PER_CORE = 8  # a job waits for S3 most of its time
GPU_THREADS = 64  # two batches of 32: one on the device, one being read and decoded
AHEAD = 3  # messages held for each thread: brief jobs are received and deleted ten to a call
DRIVER = Path("/dev/nvidiactl")


def celery_options(pipeline: Pipeline) -> list[str]:
    """Options of ``celery worker`` for a pipeline."""
    return ["-Q", pipeline.queue, *pool_options(pipeline)]


def pool_options(pipeline: Pipeline) -> list[str]:
    """Those that say how many jobs it does at a time, and in what; none where the default is."""
    if pipeline.pool == "process":
        return []
    threads = str(jobs_at_once(pipeline))
    return ["-P", "threads", "-c", threads, "--prefetch-multiplier", str(AHEAD)]


def jobs_at_once(pipeline: Pipeline) -> int:
    """How many jobs a worker works on at the same time, on this machine."""
    return 1 if pipeline.pool == "process" else settings().image_threads or _threads()


def _threads() -> int:
    """Enough that the devices do not wait for S3."""
    if settings().image_device != "cpu" and DRIVER.exists():
        return GPU_THREADS
    return THREADS_PER_CORE * len(os.sched_getaffinity(0))
