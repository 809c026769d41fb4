"""Put files in S3, get a GPU model's answer in S3.

Importing this package is cheap: what a name needs is imported when the name is first used, so a
Lambda pays for neither Celery nor torch, and a client not for torch.
"""

from importlib import import_module
from typing import Any

from cis_tasks.pipelines import PIPELINES

__version__ = "0.1.0"

_LAZY = {
    "Answer": "cis_tasks.manifest",
    "Job": "cis_tasks.jobs",
    "PermanentError": "cis_tasks.errors",
    "TransientError": "cis_tasks.errors",
    "celery": "cis_tasks.app",  # what `celery -A cis_tasks` looks for
    "submit": "cis_tasks.submission",
    "submit_many": "cis_tasks.submission",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), "app" if name == "celery" else name)
    if f"cis_tasks.{name}" in {pipeline.task for pipeline in PIPELINES.values()}:
        return getattr(import_module("cis_tasks.tasks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    tasks = [pipeline.task.rpartition(".")[2] for pipeline in PIPELINES.values()]
    return sorted([*globals(), *_LAZY, *tasks])
