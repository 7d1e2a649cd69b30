"""Each kind of namespace by its path, each action of a filter, each kind of event, labels."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sidebyside import PEERS, Bundle, Runtime, name

from sampan.runtime.oci import child

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

KINDS = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid", "cgroup": "cgroup"}


@pytest.fixture
def holder() -> Iterator[int]:
    """A process with namespaces of its own of every kind but user."""
    words = ["unshare", "--fork", "--kill-child", "--pid", "--net", "--uts", "--ipc", "--cgroup"]
    words += ["--mount", "--time", "sh", "-c", "echo in; exec sleep 60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        yield int(children)
        process.kill()


def joining(config: dict[str, Any], holder: int, kinds: dict[str, str]) -> None:
    config["linux"]["namespaces"] = [
        *([] if "mount" in kinds else [{"type": "mount"}]),
        *({"type": kind, "path": f"/proc/{holder}/ns/{file}"} for kind, file in kinds.items()),
    ]
    del config["hostname"]


def joined(output: str, holder: int, kinds: dict[str, str]) -> None:
    for file in kinds.values():
        assert os.readlink(f"/proc/{holder}/ns/{file}") in output.split()


SEEN = "ls -l /proc/self/ns/ | grep -o -E '[a-z]+:\\[.*'"


def test_namespaces_by_path(bundle: Bundle, runtime: Runtime, holder: int) -> None:
    config = bundle.script(SEEN)
    joining(config, holder, KINDS)
    bundle.write(config)
    done = runtime("run", "-b", str(bundle.directory), name("paths"))
    assert done.returncode == 0, done.stderr
    joined(done.stdout, holder, KINDS)


@pytest.mark.parametrize("kind", ["time", "mount"])
def test_time_and_mounts_by_path(bundle: Bundle, tmp_path: Path, holder: int, kind: str) -> None:
    """The peers of Debian 12 know no time namespaces, and join no namespace of mounts."""
    runtime = Runtime("sampan-oci", tmp_path / "root")
    kinds = {**KINDS, kind: {"time": "time", "mount": "mnt"}[kind]}
    config = bundle.script(SEEN)
    joining(config, holder, kinds)
    bundle.write(config)
    done = runtime("run", "-b", str(bundle.directory), name(kind))
    assert done.returncode == 0, done.stderr
    joined(done.stdout, holder, kinds)


ACTIONS = ["ERRNO", "KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP", "TRACE", "LOG", "ALLOW"]


@pytest.mark.parametrize("action", ACTIONS)
def test_what_a_filter_does(bundle: Bundle, tmp_path: Path, action: str) -> None:
    config = bundle.script("mkdir /tmp/x; echo $?; test -d /tmp/x; echo $?")
    rule = {"names": ["mkdir", "mkdirat"], "action": f"SCMP_ACT_{action}"}
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    bundle.write(config)
    found = {}
    for kind in ("sampan-oci", *PEERS):
        done = Runtime(kind, tmp_path / kind)("run", "-b", str(bundle.directory), name(kind))
        found[kind] = (done.returncode, done.stdout)
        made = bundle.rootfs / "tmp/x"
        if made.exists():
            made.rmdir()
    ours = found.pop("sampan-oci")
    allowed = action in ("LOG", "ALLOW")
    assert ours[1].split()[-1:] == (["0"] if allowed else ["1"])
    for peer, theirs in found.items():
        assert ours == theirs, (peer, theirs)


def test_events_tell_of_a_want_of_memory(bundle: Bundle, tmp_path: Path) -> None:
    config = bundle.script("tail /dev/zero; sleep 60")
    config["process"]["args"][2] = "busybox tail /dev/zero; echo ended; exec sleep 60"
    config["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    bundle.write(config)
    runtime, one = Runtime("sampan-oci", tmp_path / "root"), name("events")
    with (tmp_path / "out").open("w") as out:
        made = subprocess.run(
            [*runtime.base, "create", "-b", str(bundle.directory), one],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            check=False,
        )
    assert made.returncode == 0
    try:
        words = [*runtime.base, "events", "--interval", "1s", one]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as events:
            assert events.stdout is not None
            first = json.loads(events.stdout.readline())
            assert (first["type"], first["id"]) == ("stats", one)
            assert first["data"]["memory"]["usage"]["limit"] == 16 << 20
            assert runtime("start", one).returncode == 0
            kinds = (json.loads(line)["type"] for line in events.stdout)
            assert "oom" in kinds
            assert runtime("kill", "--all", one, "KILL").returncode == 0
            assert events.wait(20) == 0
    finally:
        runtime("delete", "--force", one)


def test_files_of_new_file_systems_are_labelled() -> None:
    """Where SELinux is; here a label is refused."""
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    entry = {"destination": "/dev", "type": "tmpfs", "options": ["nosuid"]}
    found = child._labelled(entry, label)
    assert found["options"] == ["nosuid", f'context="{label}"']
    proc = {"destination": "/proc", "type": "proc"}
    assert child._labelled(proc, label) is proc
    assert child._labelled(entry, "") is entry
