"""The embedded AWS as a process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import boto3
import pytest

from cis_tasks.local import emulator as module
from cis_tasks.local.emulator import Emulator, free_port, health
from cis_tasks.local.errors import CloudError
from support.cloud import environment, eventually, gone

STARTER = """
import sys, time
from pathlib import Path
from cis_tasks.local.emulator import Emulator
emulator = Emulator(Path(sys.argv[1]))
emulator.start()
print(emulator.pid, emulator.endpoint, flush=True)
time.sleep(600)
"""
LISTEN = "0A"


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def listening_addresses(pid: int) -> set[str]:
    """The addresses, hexadecimal as in /proc, at which a process takes TCP connections."""
    sockets = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(fd.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTEN and f"socket:[{inode}]" in sockets:
                found.add(local.partition(":")[0])
    return found


def test_emulator_is_reachable_from_this_machine_alone(emulator: Emulator) -> None:
    assert emulator.pid
    assert listening_addresses(emulator.pid) == {"0100007F"}  # 127.0.0.1


def test_environment_leads_plain_boto3_to_it(emulator: Emulator) -> None:
    with environment(emulator.environment):
        assert boto3.client("sts").get_caller_identity()["Account"] == "000000000000"


def test_nothing_is_left_of_it_after_stop(tmp_path: Path) -> None:
    with Emulator(tmp_path) as emulator:
        pid, port = emulator.pid, port_of(emulator.endpoint)
        assert emulator.healthy()
        assert (tmp_path / "tmp" / f"ministack-{port}.pid").exists()  # its files are inside
    assert pid
    assert gone(pid)
    assert not emulator.healthy()
    with socket.socket() as client:
        assert client.connect_ex((module.HOST, port)) != 0
    assert {file.name for file in tmp_path.iterdir()} == {"emulator.log", "lock"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_emulator_dies_with_its_starter(tmp_path: Path, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout
        pid = int(starter.stdout.readline().split()[0])
        assert not gone(pid)
        starter.send_signal(number)
    eventually(lambda: gone(pid))
    with Emulator(tmp_path) as next_one:  # the dead one's claim to the folder is void
        assert next_one.healthy()


def test_port_that_somebody_took_meanwhile_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((module.HOST, 0)) as other:
        taken = other.getsockname()[1]
        ports = iter([taken, free_port()])
        monkeypatch.setattr(module, "free_port", lambda: next(ports))
        with Emulator(tmp_path) as emulator:
            assert port_of(emulator.endpoint) != taken
            assert emulator.healthy()


def test_another_emulator_on_the_port_is_not_taken_for_ours(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([port_of(emulator.endpoint), free_port()])
    monkeypatch.setattr(module, "free_port", lambda: next(ports))
    with Emulator(tmp_path) as second:
        assert second.endpoint != emulator.endpoint


def test_two_emulators_cannot_share_a_folder(tmp_path: Path) -> None:
    with Emulator(tmp_path), pytest.raises(CloudError, match="choose another folder"):
        Emulator(tmp_path).start()


def test_start_that_fails_shows_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken" / "ministack"
    broken.mkdir(parents=True)
    (broken / "__init__.py").touch()
    (broken / "app.py").write_text("raise SystemExit('the disk is on fire')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    with pytest.raises(CloudError) as caught:
        Emulator(tmp_path / "state").start()
    assert "ended at once" in str(caught.value)
    assert str(tmp_path / "state" / "emulator.log") in str(caught.value)
    assert "the disk is on fire" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_LEVEL", "no such level"),
        ("SERVICES", "sns"),
        ("USE_SSL", "1"),
        ("AWS_PROFILE", "no such profile"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
    ],
)
def test_variables_meant_for_others_do_not_disturb_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with Emulator(tmp_path) as emulator:
        assert set(health(emulator.endpoint)["services"]) >= {
            "cloudformation",
            "iam",
            "lambda",
            "s3",
            "sqs",
        }


def test_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path)
    with pytest.raises(CloudError, match="did not answer within 0 s"):
        emulator.start(timeout_s=0)
    with emulator:  # nothing of the failed start is in the way
        assert emulator.healthy()
