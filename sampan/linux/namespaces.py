"""Namespaces: leave them (unshare), join them (setns), and name them."""

from __future__ import annotations

import ctypes
import os

from sampan.linux.syscalls import error, function

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# The runtime specification's names, and the names of the files in /proc/PID/ns.
TYPES = {
    "mount": (CLONE_NEWNS, "mnt"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup"),
    "uts": (CLONE_NEWUTS, "uts"),
    "ipc": (CLONE_NEWIPC, "ipc"),
    "user": (CLONE_NEWUSER, "user"),
    "pid": (CLONE_NEWPID, "pid"),
    "network": (CLONE_NEWNET, "net"),
    "time": (CLONE_NEWTIME, "time"),
}

_unshare = function("unshare", ctypes.c_int)
_setns = function("setns", ctypes.c_int, ctypes.c_int)


def unshare(flags: int) -> None:
    if _unshare(flags) < 0:
        raise error(f"make new namespaces ({names(flags)})")


def setns(fd: int, flags: int = 0) -> None:
    """Join the namespace of a /proc/PID/ns descriptor, or those in ``flags`` of a pidfd."""
    if _setns(fd, flags) < 0:
        raise error(f"join namespaces ({names(flags) or 'by path'})")


def names(flags: int) -> str:
    return ", ".join(name for name, (flag, _) in TYPES.items() if flags & flag)


def open_namespace(pid: int | str, type: str) -> int:
    """The descriptor of a process's namespace; ``type`` as the runtime specification has it."""
    return os.open(f"/proc/{pid}/ns/{TYPES[type][1]}", os.O_RDONLY | os.O_CLOEXEC)
