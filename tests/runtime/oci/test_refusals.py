"""What sampan-oci refuses, by name; and what it says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ocicontainer import SCRIPT


def oci(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        check=False,
    )


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    assert oci("spec", cwd=tmp_path).returncode == 0
    (tmp_path / "rootfs").mkdir()
    found: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())
    found["process"]["terminal"] = False
    return found


def nested(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(spec: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            spec = spec[parent]
        spec[last] = value

    return change


REFUSED = [
    ("linux.netDevices", nested("linux.netDevices", {"eth0": {}})),
    ("linux.memoryPolicy", nested("linux.memoryPolicy", {"mode": "MPOL_BIND"})),
    ("linux.resources.rdma", nested("linux.resources.rdma", {"mlx5_1": {"hcaHandles": 3}})),
    ("leafWeight", nested("linux.resources.blockIO", {"leafWeight": 10})),
    (
        "leafWeight",
        nested(
            "linux.resources.blockIO",
            {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]},
        ),
    ),
    ("unknown linux.personality", nested("linux.personality", {"domain": "LINUX64"})),
    ("tmpcopyup", nested("mounts", [{"destination": "/x", "options": ["tmpcopyup"]}])),
    ("linux.intelRdt", nested("linux.intelRdt", {"closID": "x"})),
    (
        "uidMappings",
        nested("linux.uidMappings", [{"hostID": 1, "containerID": 0, "size": 1}]),
    ),
    ("user namespace", nested("linux.namespaces", [{"type": "mount"}, {"type": "user"}])),
    ("process.scheduler.policy", nested("process.scheduler", {"policy": "SCHED_X"})),
    (
        "for SCHED_FIFO and SCHED_RR",
        nested("process.scheduler", {"policy": "SCHED_OTHER", "priority": 3}),
    ),
    ("need SCHED_DEADLINE", nested("process.scheduler", {"policy": "SCHED_RR", "period": 3})),
    ("process.ioPriority.class", nested("process.ioPriority", {"class": "IOPRIO_CLASS_X"})),
    (
        "not within 0 to 7",
        nested("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}),
    ),
    ("execCPUAffinity.initial", nested("process.execCPUAffinity", {"initial": "0-x"})),
    ("SELinux is not enabled", nested("linux.mountLabel", "system_u:object_r:x:s0")),
    ("SELinux is not enabled", nested("process.selinuxLabel", "system_u:system_r:x:s0")),
    ("AppArmor is not enabled", nested("process.apparmorProfile", "some-profile")),
    ("process.args", nested("process.args", [])),
    ("process.cwd", nested("process.cwd", "relative")),
    ("CAP_NOSUCH", nested("process.capabilities.bounding", ["CAP_NOSUCH"])),
    ("unknown namespace type 'x'", nested("linux.namespaces", [{"type": "x"}])),
    ("mount namespace", nested("linux.namespaces", [{"type": "pid"}])),
    ("unknown clock", nested("linux.timeOffsets", {"realtime": {"secs": 1}})),
    ("SCMP_ACT_NOTIFY", nested("linux.seccomp", {"defaultAction": "SCMP_ACT_NOTIFY"})),
    (
        "listenerPath is needed",
        nested(
            "linux.seccomp",
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
            },
        ),
    ),
    (
        "without listenerPath",
        nested(
            "linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "for nobody"}
        ),
    ),
    ("unknown action", nested("linux.seccomp", {"defaultAction": "SCMP_ACT_X"})),
    ("unknown kind of hook", nested("hooks", {"before": [{"path": "/x"}]})),
    ("must be absolute", nested("hooks", {"prestart": [{"path": "x"}]})),
    ("ociVersion", nested("ociVersion", "2.0.0")),
    ("it needs --systemd-cgroup", nested("linux.cgroupsPath", "a.slice:b:c")),
    ("does not name a group", nested("linux.cgroupsPath", "/../../x")),
    ("idmap", nested("mounts", [{"destination": "/x", "options": ["idmap"]}])),
    ("unknown root propagation", nested("linux.rootfsPropagation", "odd")),
]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(("text", "change"), REFUSED, ids=range(len(REFUSED)))
def test_a_bundle_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, spec: dict[str, Any], text: str, change: Callable[[dict[str, Any]], None]
) -> None:
    change(spec)
    (tmp_path / "config.json").write_text(json.dumps(spec))
    root = tmp_path / "root"
    done = oci("--root", str(root), "run", "-b", str(tmp_path), f"refused-{os.getpid()}")
    assert done.returncode == 1
    assert text in done.stderr
    assert not root.exists() or not list(root.iterdir())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--cgroup-manager", "x", "list"], "--cgroup-manager x is not supported"),
        (["--rootless", "true", "list"], "--rootless is not supported"),
        (["--nosuch", "list"], "unknown option --nosuch"),
        (["nosuch"], "unknown command 'nosuch'"),
        (["state"], "exactly one argument"),
        (["state", "../x"], "invalid container ID"),
        (["state", "x"], "container x does not exist"),
        (["list", "--format", "xml"], "invalid format option"),
    ],
)
def test_a_command_line_is_refused(tmp_path: Path, words: list[str], text: str) -> None:
    done = oci("--root", str(tmp_path), *words)
    assert done.returncode == 1
    assert text in done.stderr


def test_errors_go_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ["--root", str(tmp_path), "--log", str(log), "--log-format", "json", "state", "x"]
    assert oci(*words).returncode == 1
    entry = json.loads(log.read_text())
    assert (entry["level"], entry["msg"]) == ("error", "container x does not exist")


def test_features_name_what_there_is() -> None:
    found = json.loads(oci("features").stdout)
    assert "rro" in found["mountOptions"]
    assert "SCMP_ACT_NOTIFY" in found["linux"]["seccomp"]["actions"]
    assert found["linux"]["mountExtensions"]["idmap"] == {"enabled": True}
    assert "user" in found["linux"]["namespaces"]
    assert oci("--version").stdout.startswith("sampan-oci version ")


def test_settings_of_the_host_are_refused(tmp_path: Path, spec: dict[str, Any]) -> None:
    for name in ("kernel.core_pattern", "net/../kernel/core_pattern", "vm.swappiness"):
        spec["linux"]["sysctl"] = {name: "1"}
        (tmp_path / "config.json").write_text(json.dumps(spec))
        done = oci("--root", str(tmp_path / "r"), "run", "-b", str(tmp_path), "x")
        assert done.returncode == 1
        assert name in done.stderr
