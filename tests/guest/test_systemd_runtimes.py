"""``--systemd-cgroup`` of sampan-oci beside runc's, and runc below a daemon with scopes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guest import Answer, Guest
from harness import until
from test_guest_checkpoint import START
from test_systemd import MB, files, group_of, pid_of, scopes, shown, start

BUNDLE, ROOT, RUNC = "/tmp/bundle", "/run/oci-roots", "/tmp/runc"
# What of a unit and of its group's files does not depend on who made it.
UNIT = (
    "Slice Delegate DefaultDependencies MemoryMax MemorySwapMax MemoryLow TasksMax "
    "CPUWeight CPUQuotaPerSecUSec CPUQuotaPeriodUSec AllowedCPUs TimeoutStopUSec ActiveState"
)
FILES = "memory.max memory.swap.max memory.low pids.max cpu.max cpu.weight cpuset.cpus"
RESOURCES = {
    "memory": {"limit": 64 * MB, "swap": 96 * MB, "reservation": 32 * MB},
    "cpu": {"shares": 2048, "quota": 50_000, "period": 100_000, "cpus": "0"},
    "pids": {"limit": 50},
    "devices": [{"allow": False, "access": "rwm"}],
}


class Runtimes:
    """Both command lines in the guest, on one bundle."""

    def __init__(self, machine: Guest) -> None:
        self.machine = machine
        script = f"mkdir -p {ROOT} {BUNDLE}/rootfs/bin {BUNDLE}/rootfs/proc {BUNDLE}/rootfs/dev"
        script += f" && cp /bin/busybox {BUNDLE}/rootfs/bin/"
        script += f" && for a in sh sleep cat; do ln -sf busybox {BUNDLE}/rootfs/bin/$a; done"
        assert machine.run("sh", "-c", script).code == 0

    def bundle(self, **linux: Any) -> None:
        self.machine.run("rm", "-f", f"{BUNDLE}/config.json")
        assert self("sampan-oci", "spec", "-b", BUNDLE).code == 0
        config = json.loads(self.machine.read(f"{BUNDLE}/config.json").popitem()[1])
        config["ociVersion"] = "1.0.2"
        config["process"] |= {"args": ["sleep", "1000"], "terminal": False}
        config["process"].pop("apparmorProfile", None)
        config["mounts"] = [m for m in config["mounts"] if m["destination"] in ("/proc", "/dev")]
        config["linux"] |= {"resources": RESOURCES, **linux}
        config["annotations"] = {"org.systemd.property.TimeoutStopUSec": "uint64 7000000"}
        self.machine.write(f"{BUNDLE}/config.json", json.dumps(config).encode())

    def __call__(self, runtime: str, *words: str) -> Answer:
        base = START if runtime == "sampan-oci" else (RUNC,)
        whole = (*base, "--root", f"{ROOT}/{runtime}", "--systemd-cgroup", *words)
        quoted = " ".join(f"'{word}'" for word in whole)
        if words[0] in ("run", "create", "exec"):
            quoted += " < /dev/null > /tmp/said 2>&1 || { cat /tmp/said; exit 1; }"
        return self.machine.run("sh", "-c", quoted)

    def do(self, runtime: str, *words: str) -> str:
        answer = self(runtime, *words)
        assert answer.code == 0, answer
        return answer.out

    def observe(self, runtime: str, unit: str) -> dict[str, Any]:
        """What can be seen of a running container: where it is, its unit, its group's files."""
        pid = json.loads(self.do(runtime, "state", "one"))["pid"]
        group = group_of(self.machine, pid)
        said, found = shown(self.machine, unit), files(self.machine, group)
        return {
            "group": group,
            **{name: said.get(name) for name in UNIT.split()},
            **{name: found[name] for name in FILES.split()},
        }


@pytest.fixture
def runtimes(systemd_guest: Guest) -> Iterator[Runtimes]:
    found = Runtimes(systemd_guest)
    yield found
    found("sampan-oci", "delete", "--force", "one")
    systemd_guest.run("rm", "-rf", BUNDLE, ROOT)


@pytest.fixture(scope="module")
def runc(systemd_guest: Guest) -> str:
    program = shutil.which("runc")
    if program is None:
        pytest.skip("runc is not installed")
    systemd_guest.write(RUNC, Path(program).read_bytes())
    systemd_guest.run("chmod", "755", RUNC)
    return RUNC


def life(runtimes: Runtimes, runtime: str) -> list[Any]:
    """A container from its start to its end, as observed."""
    unit, seen = "pre-one.scope", []
    runtimes.bundle(cgroupsPath="own-deep.slice:pre:one")
    runtimes.do(runtime, "run", "--detach", "--bundle", BUNDLE, "one")
    seen.append(runtimes.observe(runtime, unit))
    runtimes.do(runtime, "update", "--memory", str(128 * MB), "--memory-swap", "-1", "one")
    runtimes.do(runtime, "update", "--cpu-quota", "20000", "--cpu-period", "50000", "one")
    runtimes.do(runtime, "update", "--pids-limit", "60", "one")
    assert runtimes.machine.run("systemctl", "daemon-reload").code == 0
    seen.append(runtimes.observe(runtime, unit))
    runtimes.do(runtime, "exec", "--detach", "--pid-file", "/tmp/pid", "one", "sleep", "1000")
    joined = int(runtimes.machine.read("/tmp/pid").popitem()[1])
    seen.append(group_of(runtimes.machine, joined))
    runtimes.do(runtime, "pause", "one")
    seen.append(json.loads(runtimes.do(runtime, "state", "one"))["status"])
    runtimes.do(runtime, "resume", "one")
    runtimes.do(runtime, "delete", "--force", "one")
    seen.append(shown(runtimes.machine, unit)["ActiveState"])
    seen.append(runtimes.machine.read("/sys/fs/cgroup/own.slice/*/pre-one.scope/cgroup.procs"))
    return seen


def test_a_scope_by_sampan_oci(runtimes: Runtimes) -> None:
    first, changed, joined, paused, state, left = life(runtimes, "sampan-oci")
    assert first["group"] == joined == "/own.slice/own-deep.slice/pre-one.scope"
    assert first["Slice"] == "own-deep.slice" and first["Delegate"] == "yes"
    assert first["memory.max"] == first["MemoryMax"] == str(64 * MB)
    assert first["TimeoutStopUSec"] == "7s" and first["cpu.max"] == "50000 100000"
    assert changed["memory.max"] == changed["MemoryMax"] == str(128 * MB)
    assert changed["pids.max"] == changed["TasksMax"] == "60"
    assert changed["cpu.max"] == "20000 50000" and changed["CPUQuotaPerSecUSec"] == "400ms"
    assert (paused, state, left) == ("paused", "inactive", {})


def test_the_same_scope_as_runc(runtimes: Runtimes, runc: str) -> None:
    for ours, theirs in zip(life(runtimes, "sampan-oci"), life(runtimes, "runc"), strict=True):
        assert ours == theirs


def test_bad_paths_and_properties_are_refused(runtimes: Runtimes) -> None:
    for path, text in (
        ("/plain", "is not SLICE:PREFIX:NAME"),
        ("a--b.slice:p:n", "invalid slice name"),
    ):
        runtimes.bundle(cgroupsPath=path)
        answer = runtimes("sampan-oci", "run", "--detach", "--bundle", BUNDLE, "one")
        assert answer.code == 1 and text in answer.out, answer
    # Without a path the scope has the container's name.
    runtimes.bundle()
    runtimes.do("sampan-oci", "run", "--detach", "--bundle", BUNDLE, "one")
    seen = runtimes.observe("sampan-oci", "sampan-oci-one.scope")
    assert seen["group"] == "/system.slice/sampan-oci-one.scope"
    # What ends by itself leaves no unit either.
    pid = json.loads(runtimes.do("sampan-oci", "state", "one"))["pid"]
    runtimes.machine.run("kill", "-9", str(pid))
    until(lambda: shown(runtimes.machine, "sampan-oci-one.scope")["ActiveState"] == "inactive")
    runtimes.do("sampan-oci", "delete", "one")


def test_another_runtime_below_the_daemon(systemd_guest: Guest, runc: str) -> None:
    guest = systemd_guest
    guest.run("cp", "-a", runc, "/usr/bin/runc")
    container = start(guest, runtime="runc", mem_limit=64 * MB, memswap_limit=64 * MB)
    unit = f"sampan-{container.id}.scope"
    group = group_of(guest, pid_of(container))
    assert group == f"/system.slice/{unit}"
    assert files(guest, group)["memory.max"] == shown(guest, unit)["MemoryMax"] == str(64 * MB)
    assert guest.read("/sys/fs/cgroup/*:*/cgroup.procs") == {}
    guest.client.api.update_container(container.id, mem_limit=128 * MB, memswap_limit=128 * MB)
    assert files(guest, group)["memory.max"] == shown(guest, unit)["MemoryMax"] == str(128 * MB)
    assert container.exec_run("echo hi") == (0, b"hi\n")
    container.remove(force=True)
    assert scopes(guest) == []
