"""Devices by vendors' CDI specifications, and GPUs through them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, running

YAML = """\
# as vendors' tools write it
cdiVersion: 0.6.0
kind: written.com/otherwise
containerEdits:
  env: [KIND=written]
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - path: /dev/written
          hostPath: /dev/null
          fileMode: 0640
"""
HOOK = "#!/bin/sh\ncat > {log}\n"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cdi") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def machine(folder: Path) -> Iterator[Daemon]:
    for name in ("first", "second", "mounted"):
        (folder / name).mkdir()
    (folder / "mounted/file").write_text("of the vendor\n")
    hook = folder / "hook"
    hook.write_text(HOOK.format(log=folder / "state"))
    hook.chmod(0o755)
    write(folder / "first/vendor.json", "vendor.com/device", devices(folder))
    write(folder / "second/newer.json", "vendor.com/device", [device("both", env=["WHICH=second"])])
    gpus = [device(name, env=[f"GPU_{name}=1"]) for name in ("0", "1", "all")]
    write(folder / "first/gpu.json", "nvidia.com/gpu", gpus)
    (folder / "first/written.yaml").write_text(YAML)
    (folder / "first/other.yaml").write_text("cdiVersion: 0.6.0\n")
    (folder / "first/broken.json").write_text("{")
    flags = [word for name in ("first", "second") for word in ("--cdi-spec-dir", folder / name)]
    yield from running(*map(str, flags))


def device(name: str, **edits: Any) -> dict[str, Any]:
    return {"name": name, "containerEdits": edits}


def devices(folder: Path) -> list[dict[str, Any]]:
    return [
        device(
            "one",
            env=["OWN=one", "PATH_OF=device"],
            deviceNodes=[
                {"path": "/dev/vendor0", "hostPath": "/dev/zero", "permissions": "r"},
                {"path": "/dev/vendor1", "type": "c", "major": 1, "minor": 3, "gid": 7},
            ],
            mounts=[
                {
                    "hostPath": str(folder / "mounted"),
                    "containerPath": "/vendor",
                    "options": ["ro", "bind"],
                }
            ],
            additionalGids=[77],
        ),
        device("hooked", hooks=[{"hookName": "createRuntime", "path": str(folder / "hook")}]),
        device("both", env=["WHICH=first"]),
        device("gone", deviceNodes=[{"path": "/dev/nosuch-device"}]),
    ]


def write(path: Path, kind: str, listed: list[dict[str, Any]]) -> None:
    edits = {"env": [f"KIND={kind}"]}
    document = {"cdiVersion": "0.7.0", "kind": kind, "devices": listed, "containerEdits": edits}
    path.write_text(json.dumps(document))


def run(daemon: Daemon, *words: str) -> tuple[int, str]:
    done = daemon.docker("run", "--rm", *words)
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("runtime", ["sampan", "crun"])
def test_a_device_brings_what_it_needs(machine: Daemon, runtime: str) -> None:
    if runtime != "sampan" and shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    script = (
        "echo $OWN $KIND; stat -c '%t:%T %g' /dev/vendor0 /dev/vendor1; cat /vendor/file; id -G;"
        "head -c 2 /dev/vendor0 | wc -c"
    )
    words = ["--runtime", runtime, "--device", "vendor.com/device=one", "busybox", "sh", "-c"]
    code, shown = run(machine, *words, script)
    assert code == 0, shown
    wanted = "one vendor.com/device\n1:5 0\n1:3 7\nof the vendor\n0 77\n2\n"
    assert shown == wanted


def test_a_specification_in_yaml(machine: Daemon) -> None:
    words = ["--device", "written.com/otherwise=0", "busybox", "sh", "-c"]
    script = "echo $KIND; stat -c '%t:%T %a' /dev/written"
    assert run(machine, *words, script) == (0, "written\n1:3 640\n")


def test_the_later_directory_counts(machine: Daemon) -> None:
    words = ["--device", "vendor.com/device=both", "busybox", "sh", "-c", "echo $WHICH"]
    assert run(machine, *words) == (0, "second\n")


def test_hooks_are_for_runtimes_that_run_them(machine: Daemon, folder: Path) -> None:
    words = ["--device", "vendor.com/device=hooked", "busybox", "true"]
    code, shown = run(machine, *words)
    assert code == 125 and "choose --runtime crun or runc" in shown
    if shutil.which("crun"):
        assert run(machine, "--runtime", "crun", *words)[0] == 0
        assert json.loads((folder / "state").read_text())["pid"] > 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vendor.com/device=nosuch", "unresolvable CDI devices vendor.com/device=nosuch"),
        ("other.com/device=one", "other.yaml: Object missing required field `kind`"),
        ("other.com/device=one", "broken.json"),
        ("vendor.com/device=gone", "/dev/nosuch-device"),
    ],
)
def test_a_device_that_there_is_not(machine: Daemon, name: str, text: str) -> None:
    code, shown = run(machine, "--device", name, "busybox", "true")
    assert code == 125 and text in shown


@pytest.mark.proves("docker container run --gpus", "docker container create --gpus")
def test_gpus(machine: Daemon) -> None:
    script = ["busybox", "sh", "-c", "env | grep ^GPU_ | sort"]
    assert run(machine, "--gpus", "all", *script) == (0, "GPU_all=1\n")
    assert run(machine, "--gpus", "2", *script) == (0, "GPU_0=1\nGPU_1=1\n")
    assert run(machine, "--gpus", "device=1", *script) == (0, "GPU_1=1\n")
    code, shown = run(machine, "--gpus", "driver=other,count=1", *script)
    assert code == 125
    assert 'could not select device driver "other" with capabilities: [[gpu]]' in shown
    assert machine.client.info()["CDISpecDirs"] == list(machine.flags[1::2])


def test_no_gpus_at_all(daemon: Daemon) -> None:
    code, shown = run(daemon, "--gpus", "all", "busybox", "true")
    assert code == 125
    assert 'could not select device driver "" with capabilities: [[gpu]]' in shown
