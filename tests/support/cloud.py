"""An AWS for tests: one embedded emulator for the session, a stack of its own for each test.

Fixtures, found by pytest through ``tests/conftest.py`` without an import:

``emulator`` (session)
    The running `cis_tasks.local.emulator.Emulator`. Most tests want ``cloud`` instead. With
    ``pytest --emulator=moto`` it is moto's server, which the broker's tests know how to use.

``cloud`` (function)
    A `cis_tasks.local.cloud.Cloud` on it: the real template and Lambda zip, with buckets, queues
    and roles of unique names (0.1 s). This process's environment leads to it for the time of the
    test, so ``boto3.client("s3")``, ``cis_tasks.submit(...)`` and ``subprocess`` just work:

        def test_upload_makes_a_job(cloud):
            s3 = boto3.client("s3")
            s3.put_object(Bucket=cloud.stack.input_bucket, Key="sensor_data/a.csv", Body=b"...")
            s3.put_object(Bucket=cloud.stack.input_bucket, Key="video_footage/a.mp4", Body=b"...")
            eventually(lambda: cloud.queue_counts()["spine"].waiting == 1)

    It has no worker; ``cloud.add_workers(1, "spine")`` starts real ones, waits until they take
    jobs and returns them (``.pid``, ``.log``, ``.state``, ``.stop()``, ``.kill()``). They end
    with the test. Logs are in ``cloud.state``.

``cloud_of_module`` (module)
    The same for all tests of a file, for those that need no fresh one.

``make_cloud`` (session)
    ``with make_cloud() as cloud:`` where a test needs several; takes the template's parameters:
    ``make_cloud({"VisibilityTimeoutSeconds": "30"})``.

Helpers: ``from support.cloud import eventually, gone``.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import kombu.pools
import pytest
from botocore.exceptions import ClientError

from cis_tasks.local.cloud import POLLS, Cloud, start
from cis_tasks.local.emulator import Emulator
from cis_tasks.local.stack import Names
from support.moto import Moto

Seen = TypeVar("Seen")
MakeCloud = Callable[..., AbstractContextManager[Cloud]]

OURS = ("AWS_", "CIS_")
NO_CONFIGURATION = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
PACKAGES = ("cis_tasks", "lambda_trigger", "scaling")


def eventually(look: Callable[[], Seen], timeout_s: float = 180.0, every_s: float = 0.1) -> Seen:
    """Call ``look`` until it gives something true, and return that; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:.0f} s; last seen: {seen!r}", pytrace=True)
        time.sleep(every_s)
    return seen


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has reaped yet counts as ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in {"Z", "X"}


@pytest.fixture(scope="session", autouse=True)
def _no_outside_aws() -> Iterator[None]:
    """Keep the credentials, endpoints and settings of whoever runs the tests out of them."""
    with environment({}):
        yield


@pytest.fixture(scope="session")
def emulator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Emulator | Moto]:
    kind = Moto if request.config.getoption("--emulator") == "moto" else Emulator
    with kind(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.fixture(scope="session")
def make_cloud(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> MakeCloud:
    @contextmanager
    def make(parameters: Mapping[str, str] | None = None, *, workers: int = 0) -> Iterator[Cloud]:
        suffix = uuid.uuid4().hex[:10]
        names = Names.unique(suffix)
        with ExitStack() as down:
            down.enter_context(environment(emulator.environment))
            cloud = down.enter_context(
                start(
                    state=tmp_path_factory.mktemp(f"cloud-{suffix}"),
                    names=names,
                    parameters=parameters,
                    workers=workers,
                )
            )
            os.environ.update({**POLLS, **cloud.environment})
            forget()
            down.callback(forget)
            yield cloud
            for worker in cloud.workers:
                worker.kill()  # a test that cares how they end has ended them
            for name in (names.lambda_name, names.scaling_lambda_name):
                with suppress(ClientError):  # gone already
                    # a function that has run keeps a process for as long as it exists
                    cloud.client("lambda").delete_function(FunctionName=name)

    return make


@pytest.fixture
def cloud(make_cloud: MakeCloud) -> Iterator[Cloud]:
    with make_cloud() as made:
        yield made


@pytest.fixture(scope="module")
def cloud_of_module(make_cloud: MakeCloud) -> Iterator[Cloud]:
    with make_cloud() as made:
        yield made


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within the block, this process has ``variables`` and nothing else of AWS's or ours."""
    before = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
    _replace({**NO_CONFIGURATION, **variables})
    try:
        yield
    finally:
        _replace(before)


def forget() -> None:
    """Make this process read its settings anew: drop what our modules and Celery's app keep."""
    modules = [m for name, m in sys.modules.items() if name.split(".")[0] in PACKAGES]
    for module in modules:
        for value in list(vars(module).values()):
            clear = getattr(value, "cache_clear", None)
            if callable(clear):
                clear()
    sys.modules.pop("celeryconfig", None)  # it read the settings when it was imported
    application = sys.modules.get("cis_tasks.app")
    if application is not None:
        app = application.app
        app._after_fork()  # its connections, as in a new process
        kombu.pools.reset()
        app._backend_cache = app._local.backend = None
        app.config_from_object("celeryconfig")


def _replace(variables: Mapping[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]
    os.environ.update(variables)
