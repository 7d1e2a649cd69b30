"""Capabilities: names, the five sets of a process, and what the kernel knows."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

from sampan.linux import files
from sampan.linux.process import prctl
from sampan.linux.syscalls import error, function

NAMES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
]
NUMBERS = {name: number for number, name in enumerate(NAMES)}

PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_capget = function("capget", ctypes.POINTER(_Header), ctypes.POINTER(_Data))
_capset = function("capset", ctypes.POINTER(_Header), ctypes.POINTER(_Data))


def mask(names: Iterable[str]) -> int:
    """The bits of the named capabilities.  Raises KeyError for an unknown name."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def last() -> int:
    """The number of the last capability that this kernel knows."""
    return int(files.read("/proc/sys/kernel/cap_last_cap"))


def bounding() -> int:
    """The bounding set of the calling process: what it could give to another at most."""
    for line in files.read("/proc/self/status").splitlines():
        if line.startswith(b"CapBnd:"):
            return int(line.split()[1], 16)
    return 0


def drop_bounding(keep: int, last_capability: int, current: int) -> None:
    """Take everything outside ``keep`` out of the bounding set (``current``) for good."""
    for number in range(last_capability + 1):
        bit = 1 << number
        if current & bit and not keep & bit:
            prctl(PR_CAPBSET_DROP, number)


def permitted() -> int:
    """The permitted set of the calling thread."""
    data = (_Data * 2)()
    if _capget(ctypes.byref(_Header(_VERSION_3, 0)), data) < 0:
        raise error("get capabilities")
    return int(data[0].permitted) | int(data[1].permitted) << 32


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    data = (_Data * 2)(
        _Data(effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF),
        _Data(effective >> 32, permitted >> 32, inheritable >> 32),
    )
    if _capset(ctypes.byref(_Header(_VERSION_3, 0)), data) < 0:
        raise error("set capabilities")


def set_ambient(bits: int) -> None:
    prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    for number in range(bits.bit_length()):
        if bits >> number & 1:
            prctl(PR_CAP_AMBIENT, _AMBIENT_RAISE, number)
