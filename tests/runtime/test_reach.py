"""What a default container can reach: no more than under Docker."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks import bind, output_of

from sampan.linux.syscalls import MACHINE
from sampan.runtime.spawner import Spawner
from sampan.runtime.syscall_numbers import AUDIT_X86_64, TABLES
from sampan.runtime.types import KeeperRequest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or MACHINE != "x86_64", reason="needs root, and knows x86_64's calls"
)

# What Docker's documentation lists as refused by its default profile, as far as x86_64 has it.
REFUSED = [
    "acct",
    "add_key",
    "bpf",
    "clock_settime",
    "create_module",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "get_mempolicy",
    "init_module",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mbind",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pivot_root",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "set_mempolicy",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "sysfs",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "fanotify_init",
    "syslog",
    "setdomainname",
    "sethostname",
]
CAPABILITIES = 0x00000000A80425FB
DEVICES = [
    "core",
    "fd",
    "full",
    "mqueue",
    "null",
    "ptmx",
    "pts",
    "random",
    "shm",
    "stderr",
    "stdin",
    "stdout",
    "tty",
    "urandom",
    "zero",
]

PROBE = r"""
import ctypes, json, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
bad = ctypes.c_long(-1)
answers = {}
for name, number in json.loads(sys.argv[1]).items():
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(2)
        ctypes.set_errno(0)
        libc.syscall(ctypes.c_long(number), bad, bad, bad, bad, bad, bad)
        os.write(writer, str(ctypes.get_errno()).encode())
        os._exit(0)
    os.close(writer)
    answers[name] = int(os.read(reader, 16) or -1)
    os.close(reader)
    os.waitpid(child, 0)
print(json.dumps(answers))
"""


def python(request: KeeperRequest) -> KeeperRequest:
    """The request with the host's Python in it."""
    for path in ("/usr", "/lib", "/lib64"):
        if Path(path).exists():
            mount = bind(Path(path), path)
            mount["options"] = ["rbind", "ro"]
            request.spec["mounts"].append(mount)
    return request


async def test_refused_system_calls(
    spawner: Spawner, request_for: Callable[..., KeeperRequest]
) -> None:
    table = TABLES[AUDIT_X86_64]
    wanted = {name: table[name] for name in REFUSED if name in table}
    assert len(wanted) > 40
    base = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    if not str(base).startswith("/usr"):
        pytest.skip("Python is not below /usr")
    request = python(request_for(str(base), "-I", "-S", "-c", PROBE, json.dumps(wanted)))
    answers = json.loads(await output_of(spawner, request))
    # EPERM, or ENOSYS for what this kernel or profile does not know.
    assert {name: answer for name, answer in answers.items() if answer not in (1, 38)} == {}


async def look(spawner: Spawner, request: KeeperRequest) -> list[str]:
    return (await output_of(spawner, request)).splitlines()


async def test_capabilities(spawner: Spawner, request_for: Callable[..., KeeperRequest]) -> None:
    lines = await look(spawner, request_for("grep", "^Cap", "/proc/self/status"))
    held = {name: int(value, 16) for name, value in (line.split(":\t") for line in lines)}
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert held[kind] & ~CAPABILITIES == 0
    assert held["CapInh"] == held["CapAmb"] == 0
    done = await look(spawner, request_for("grep", "Seccomp:", "/proc/self/status"))
    assert done == ["Seccomp:\t2"]


async def test_devices(spawner: Spawner, request_for: Callable[..., KeeperRequest]) -> None:
    assert set(await look(spawner, request_for("ls", "/dev"))) <= set(DEVICES)


async def test_system_files_that_can_be_written(
    spawner: Spawner, request_for: Callable[..., KeeperRequest]
) -> None:
    """Below /proc and /sys only a process's own files, as under Docker; nothing of the host's."""
    script = """
    find /sys /proc -path '/proc/[0-9]*' -prune -o -path /proc/self -prune -o \
        -path /proc/thread-self -prune -o -type f -perm -200 -print 2>/dev/null | while read f; do
        (: >> "$f") 2>/dev/null && echo "$f"
    done
    """
    found: list[Any] = await look(spawner, request_for("sh", "-c", script))
    assert [name for name in found if not name.startswith("/proc/pressure/")] == []


async def test_what_is_hidden(spawner: Spawner, request_for: Callable[..., KeeperRequest]) -> None:
    script = """
    for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do
        test -e $f && head -c 1 $f; done
    ls /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap 2>/dev/null \
        | grep -v -E '^(/.*:)?$'
    grep -c . /proc/keys
    find /sys/fs/cgroup -name '*.procs' | while read f; do (echo 0 > $f) 2>/dev/null && echo $f; done
    """
    assert await look(spawner, request_for("sh", "-c", script)) == ["0"]
