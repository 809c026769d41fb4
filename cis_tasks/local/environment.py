"""Environment variables: what leads a process to an AWS, and what must not lead it elsewhere."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import boto3

import cis_tasks

HOST = "127.0.0.1"
REGION = "us-east-1"
ANY_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""Credentials for an emulator, which accepts any."""

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def to_emulator(endpoint: str) -> dict[str, str]:
    """The variables that lead every AWS client to the emulator at ``endpoint``."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        **ANY_KEYS,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        **past_proxies(os.environ),
    }


def to_given_aws() -> dict[str, str]:
    """The variables that lead to the AWS at this process's own ``AWS_ENDPOINT_URL``.

    Credentials stay where boto3 finds them; an endpoint for which it finds none is taken to be
    an emulator. A missing region becomes us-east-1.
    """
    session = boto3.Session()
    region = session.region_name or REGION
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    return {
        **{name: os.environ[name] for name in names if os.environ.get(name)},
        **({} if session.get_credentials() else ANY_KEYS),
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        **past_proxies(os.environ),
    }


def without(environment: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    """``environment`` without the variables whose names begin with one of ``prefixes``."""
    return {name: value for name, value in environment.items() if not name.startswith(prefixes)}


def past_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Proxy exceptions that keep this machine's traffic on it; empty where no proxy is set."""
    if not any(name.lower() in PROXY_VARIABLES for name in environment):
        return {}
    given = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    hosts = [host for host in given.split(",") if host]
    value = ",".join([*hosts, *(own for own in (HOST, "localhost") if own not in hosts)])
    return {"NO_PROXY": value, "no_proxy": value}


def of_worker(base: Mapping[str, str], cloud: Mapping[str, str], workers: int) -> dict[str, str]:
    """All variables of a worker process.

    Our modules are importable from any folder, and the cores are shared among the workers.

    Args:
        base: what it gets of its starter's.
        cloud: where AWS is and what the buckets and queues are called; over ``base``.
        workers: how many run side by side.
    """
    root = str(Path(cis_tasks.__file__).resolve().parents[1])
    path = [root, *filter(None, base.get("PYTHONPATH", "").split(os.pathsep))]
    threads = str(max(1, (os.cpu_count() or 1) // max(1, workers)))
    return {
        **dict.fromkeys(THREAD_VARIABLES, threads),
        **base,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",  # the log is there when somebody looks
        **cloud,
    }


def write_script(environment: Mapping[str, str], file: Path) -> None:
    """Write ``environment`` for a shell to read with ``.``; for its owner alone.

    The shell finds ``cis``, ``aws`` and ``celery`` besides: those of this installation.
    """
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    text += f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"\n'
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
