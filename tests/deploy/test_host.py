"""What turns a machine into one of ours: the script in a root of its own, the units, the code."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from cfnlint.decode import cfn_yaml

from cis_tasks.deployment.bundle import bundle, checkout, lock, tar_of_wheels
from cis_tasks.deployment.requirements import requirements
from cis_tasks.errors import SettingsError
from cis_tasks.worker.host import GOING

ROOT = checkout()
DEPLOY = ROOT / "deploy"
SCRIPTS = [DEPLOY / "user-data.sh", DEPLOY / "cis-worker", DEPLOY / "healthcheck.sh"]
UNITS = sorted((DEPLOY / "units").glob("*.service"))

# Commands that a machine has and a test has not; each notes how it was called.
STUBS = {
    "aws": """case "$*" in
        s3*-) tar --create --directory /wheels . ;;
        ssm*) rest=${*#*--name }; echo "value of ${rest%% *}" ;;
        ecr*) echo password ;;
        esac""",
    "curl": """for url in "$@"; do :; done
        case $url in
        */api/token) echo token ;;
        */tags/instance/*) cat "/tags/${url##*/}" ;;
        esac""",
    "docker": "cat >/dev/null",
    "mountpoint": "exit 1",
    "nvidia-smi": "cat /gpus",
    "python3.12": """case "$*" in
        "-m venv"*) mkdir -p /opt/cis/venv/bin /opt/cis/venv/lib
            printf '#!/bin/sh\\necho /opt/cis/venv/lib\\n' >/opt/cis/venv/bin/python
            chmod +x /opt/cis/venv/bin/python ;;
        esac""",
    "systemctl": "true",
    "useradd": "echo cis:x:0:0::/:/bin/sh >>/etc/passwd; echo cis:x:0: >>/etc/group",
}
ENTER = """
set -e
for name in usr dev proc; do mkdir -p "$1/$name"; mount --rbind "/$name" "$1/$name"; done
exec chroot "$1" /usr/bin/env -i PATH=/stubs:/usr/bin:/usr/sbin /usr/bin/bash \
    /opt/cis/app/deploy/user-data.sh $2
"""


def can_enter() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "true"], check=False).returncode == 0


class Machine:
    """A file system like a new machine's, in which the script runs as root."""

    def __init__(self, root: Path, tags: dict[str, str], gpus: int, host: str = "") -> None:
        self.root = root
        for name in ("tags", "etc/cis", "etc/systemd/system", "var/log", "var/lib", "stubs", "tmp"):
            (root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            (root / name).symlink_to(f"usr/{name}")
        (root / "usr/local/bin").mkdir(parents=True)
        for key, value in tags.items():
            (root / "tags" / key).write_text(value)
        (root / "gpus").write_text("".join(f"GPU {n}: NVIDIA L4\n" for n in range(gpus)))
        (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        (root / "etc/cis/environment").write_text("AWS_DEFAULT_REGION=eu-west-1\n")
        (root / "etc/cis/host").write_text(f"CODE=s3://code/worker/1.tar.gz\n{host}")
        with tarfile.open(fileobj=io.BytesIO(bundle(ROOT).data)) as code:
            code.extractall(root / "opt/cis/app", filter="data")
        for name, body in STUBS.items():
            stub = root / "stubs" / name
            stub.write_text(f'#!/bin/sh\necho "{name} $*" >>/calls\n{body}\n')
            stub.chmod(0o755)
        # The real /usr is mounted over ours, so the script's own command goes elsewhere.
        script = root / "opt/cis/app/deploy/user-data.sh"
        script.write_text(script.read_text().replace("/usr/local/bin/cis", "/opt/cis/bin-cis"))

    def boot(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "-rm", "bash", "-c", ENTER, "enter", str(self.root), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}
        )

    def calls(self, of: str) -> list[str]:
        lines = (self.root / "calls").read_text().splitlines()
        return [line.removeprefix(f"{of} ") for line in lines if line.startswith(f"{of} ")]

    def read(self, path: str) -> str:
        return (self.root / path).read_text()


entered = pytest.mark.skipif(not can_enter(), reason="no user namespaces here: unshare is refused")


@entered
def test_machine_with_two_gpus_gets_two_workers(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {"cis-pipeline": "spine"}, gpus=2)
    done = machine.boot()
    assert done.returncode == 0, done.stderr
    started = [call for call in machine.calls("systemctl") if call.startswith("enable")]
    # All at once: a GPU that is broken keeps no other waiting.
    both = "cis-worker@spine-0.service cis-worker@spine-1.service"
    assert started == [f"enable --now --no-block {both}"]
    assert "CIS_HOST_WORKERS=spine-0,spine-1" in machine.read("etc/cis/environment").splitlines()
    assert (machine.root / "etc/systemd/system/cis-worker@.service").is_file()
    assert "CIS_SCRATCH=/var/lib/cis/scratch" in machine.read("etc/cis/environment")
    assert machine.read("opt/cis/venv/lib/cis.pth") == "/opt/cis/app\n"
    assert (machine.root / "opt/cis/venv/bin/python").stat().st_mode & 0o005 == 0o005
    [install] = [call for call in machine.calls("python3.12") if "install" in call]
    assert "--constraint /opt/cis/app/constraints.txt" in install
    assert "--requirement /opt/cis/app/requirements-worker.txt" in install


@entered
def test_second_boot_installs_nothing_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {"cis-pipeline": "image"}, gpus=0)
    for _ in range(2):
        done = machine.boot()
        assert done.returncode == 0, done.stderr
    assert len([call for call in machine.calls("python3.12") if " install " in call]) == 1
    assert machine.read("etc/cis/environment").count("CIS_SCRATCH=") == 1
    assert machine.read("etc/cis/environment").count("CIS_HOST_WORKERS=image-cpu\n") == 1
    assert "enable --now --no-block cis-worker@image-cpu.service" in machine.calls("systemctl")


@entered
def test_wheels_are_installed_by_their_checksums_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {"cis-pipeline": "spine"}, 1, "WHEELS=worker/wheels-1.tar\n")
    (machine.root / "wheels").mkdir()
    assert machine.boot().returncode == 0
    [install] = [call for call in machine.calls("python3.12") if " install " in call]
    assert "--no-index" in install
    assert "--require-hashes --requirement /opt/cis/app/requirements.lock" in install
    assert "s3 cp --only-show-errors s3://code/worker/wheels-1.tar -" in machine.calls("aws")


@entered
def test_image_is_baked_without_tags_and_starts_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {}, gpus=1)
    done = machine.boot("install")
    assert done.returncode == 0, done.stderr
    assert machine.calls("systemctl") == ["daemon-reload"]


@entered
def test_web_machine_reads_its_secrets_into_files_that_others_cannot_read(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {"cis-role": "web"}, 0, "SECRETS=/cis-tasks\n")
    done = machine.boot()
    assert done.returncode == 0, done.stderr
    assert machine.read("etc/cis/web-tokens") == "value of /cis-tasks/web-tokens\n"
    secret = machine.root / "etc/cis/secrets"
    assert secret.read_text() == "CIS_WEB_WEBHOOK_SECRET=value of /cis-tasks/webhook-secret\n"
    assert secret.stat().st_mode & 0o007 == 0
    assert "value of" not in done.stdout + done.stderr
    assert "enable --now cis-web.service" in machine.calls("systemctl")


@entered
def test_container_is_fetched_where_one_is_named(tmp_path: Path) -> None:
    host = "REGISTRY=1.dkr.ecr\nREPOSITORY=cis\nTAG=1\n"
    machine = Machine(tmp_path, {"cis-pipeline": "spine"}, 1, host)
    done = machine.boot()
    assert done.returncode == 0, done.stderr
    assert "pull --quiet 1.dkr.ecr/cis:1" in machine.calls("docker")
    assert machine.read("etc/cis/container") == "IMAGE=1.dkr.ecr/cis:1\n"
    assert not [call for call in machine.calls("aws") if "password" in call and "get-" not in call]


@entered
def test_machine_without_a_tag_says_what_it_lacks(tmp_path: Path) -> None:
    done = Machine(tmp_path, {}, gpus=1).boot()
    assert done.returncode == 1
    assert "neither the tag cis-pipeline nor cis-role" in done.stderr


@pytest.mark.parametrize(
    ("instance", "gpu", "port"), [("spine-0", "0", "8100"), ("image-3", "3", "8103")]
)
def test_worker_of_a_unit_sees_its_gpu_alone(
    tmp_path: Path, instance: str, gpu: str, port: str
) -> None:
    told = worker_command(tmp_path, instance)
    assert told == [
        f"{gpu} {port} /run/cis {instance}",
        f"-m cis_tasks worker {instance[:-2]} --hostname {instance}@%h",
    ]


def test_worker_without_a_gpu_sees_none(tmp_path: Path) -> None:
    assert worker_command(tmp_path, "spine-cpu")[0] == " 8100 /run/cis spine-cpu"


@pytest.mark.parametrize("instance", ["spine", "spine-x", "0"])
def test_unit_that_names_no_gpu_is_refused(instance: str) -> None:
    done = subprocess.run(
        [str(DEPLOY / "cis-worker"), instance], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert instance in done.stderr


def worker_command(folder: Path, instance: str) -> list[str]:
    """What the units' script runs, and what of the GPU it tells it."""
    python = folder / "python"
    python.write_text(
        '#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES $CIS_HEALTH_PORT" \
"$CIS_HOST_FOLDER $CIS_HOST_WORKER"\necho "$*"\n'
    )
    python.chmod(0o755)
    script = folder / "cis-worker"
    text = (DEPLOY / "cis-worker").read_text()
    script.write_text(text.replace("/opt/cis/venv/bin/python", str(python)))
    done = subprocess.run(
        ["bash", str(script), instance], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_a_workers_container_meets_the_others_of_its_machine(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\necho "$*"\n')
    (tmp_path / "docker").chmod(0o755)
    done = subprocess.run(
        ["bash", str(DEPLOY / "cis-worker"), "spine-1"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "IMAGE": "cis:1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--gpus device=1" in done.stdout
    assert "--env CIS_HOST_FOLDER --env CIS_HOST_WORKER --volume /run/cis:/run/cis" in done.stdout


def test_no_worker_is_started_on_a_machine_that_goes() -> None:
    lines = (DEPLOY / "units/cis-worker@.service").read_text().splitlines()
    assert f"ExecCondition=/bin/sh -c '! test -e /run/cis/{GOING}'" in lines
    # Else the first worker to end would take the folder from the others.
    assert {"RuntimeDirectory=cis", "RuntimeDirectoryPreserve=yes"} <= {*lines}


def test_scripts_pass_shellcheck() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_scripts_inside_templates_pass_shellcheck() -> None:
    app, web, image = (
        cfn_yaml.load(str(DEPLOY / f"{name}.yaml"))["Resources"]
        for name in ("template", "web", "image")
    )
    data = [
        resources["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["UserData"]
        for resources in (app, web)
    ]
    recipe = yaml.safe_load(image["Component"]["Properties"]["Data"]["Fn::Sub"])
    scripts = [
        data[0]["Fn::If"][1]["Fn::Base64"]["Fn::Sub"],
        data[1]["Fn::Base64"]["Fn::Sub"],
        "#!/bin/bash\n" + recipe["phases"][0]["steps"][0]["inputs"]["commands"][0],
    ]
    for script in scripts:
        filled = re.sub(r"\$\{[^}]+\}", "value", script)  # as CloudFormation does before bash
        shellcheck = Path(sys.executable).with_name("shellcheck")
        done = subprocess.run(
            [shellcheck, "-"], input=filled, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_are_what_systemd_takes(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    about = [line for line in done.stderr.splitlines() if unit.stem.split("@")[0] in line]
    assert not [line for line in about if "No such file or directory" not in line]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_run_without_root_and_end_after_their_work(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert {"User=cis", "NoNewPrivileges=yes", "ProtectSystem=strict", "Restart=always"} <= {*lines}
    if unit.name.startswith("cis-worker"):
        assert {"KillMode=mixed", "TimeoutStopSec=1800", "Type=notify"} <= {*lines}


def test_code_of_machines_is_named_by_its_checksum_and_is_the_same_each_time() -> None:
    first, second = bundle(ROOT), bundle(ROOT)
    assert first == second
    assert first.key == f"worker/{hashlib.sha256(first.data).hexdigest()}.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(first.data)) as code:
        assert {"deploy/user-data.sh", "cis_tasks/app.py", "requirements-web.txt"} <= {
            *code.getnames()
        }
        assert code.getmember("deploy/user-data.sh").mode == 0o755


def test_wheels_are_locked_by_name_version_and_checksum(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "Some_Thing-1.2-py3-none-any.whl").write_bytes(b"1")
    digest = hashlib.sha256(b"1").hexdigest()
    assert lock(wheels) == f"some-thing==1.2 --hash=sha256:{digest}\n"
    key = tar_of_wheels(wheels, tmp_path / "tar")
    assert key == f"worker/wheels-{hashlib.sha256((tmp_path / 'tar').read_bytes()).hexdigest()}.tar"
    (wheels / "thing.tar.gz").write_bytes(b"1")
    with pytest.raises(SettingsError, match=r"thing\.tar\.gz is no wheel"):
        lock(wheels)


def test_image_has_pinned_packages_and_no_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert "USER 10001" in lines
    assert any("--constraint constraints.txt" in line for line in lines)
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    copied = [
        line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line
    ]
    assert all((ROOT / name).exists() for names in copied for name in names)


def test_every_package_that_machines_install_is_pinned() -> None:
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    for part in ("worker", "web"):
        for needed in requirements(ROOT / "pyproject.toml", part):
            name = needed.partition("[")[0]
            for mark in "<>=~! ;":
                name = name.partition(mark)[0]
            assert name.lower().replace("_", "-") in pins, needed
