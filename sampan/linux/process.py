"""A process's own attributes: prctl(2), securebits, identity, descriptors, signals by pidfd."""

from __future__ import annotations

import ctypes
import os
import signal as signals
from collections.abc import Iterable, Sequence

from sampan.linux.syscalls import by_machine, error, function, numbered

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CLOSE_RANGE_CLOEXEC = 4
_LAST_FD = 0xFFFFFFFF

_ulong = ctypes.c_ulong
_prctl = function("prctl", ctypes.c_int, _ulong, _ulong, _ulong, _ulong)
_close_range = numbered(436, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_pidfd_getfd = numbered(438, ctypes.c_int, ctypes.c_int, ctypes.c_uint)
_setdomainname = function("setdomainname", ctypes.c_char_p, ctypes.c_size_t)
_sethostname = function("sethostname", ctypes.c_char_p, ctypes.c_size_t)
_personality = numbered(by_machine(135, 92), ctypes.c_ulong)
_keyctl = numbered(by_machine(250, 219), ctypes.c_int, ctypes.c_char_p)
# The C library's setgroups(3) and set*id(3) broadcast to threads; one thread is all there is here.
_setgroups = function("setgroups", ctypes.c_size_t, ctypes.POINTER(ctypes.c_uint))

_setfsuid = function("setfsuid", ctypes.c_uint)
_setfsgid = function("setfsgid", ctypes.c_uint)

_names: dict[str, ctypes.Array[ctypes.c_char]] = {}


def prctl(option: int, value: int = 0, third: int = 0, fourth: int = 0) -> None:
    if _prctl(option, value, third, fourth, 0) < 0:
        raise error(f"prctl {option}")


def set_dumpable(dumpable: bool) -> None:
    prctl(PR_SET_DUMPABLE, int(dumpable))


def set_no_new_privileges() -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_file_identity(uid: int, gid: int) -> None:
    """The user and group as which the calling thread makes and opens files.  Anyone but root loses
    its capabilities over files by it, until they are set again."""
    _setfsgid(gid)
    _setfsuid(uid)


def set_name(name: str) -> None:
    """The process's name as ``ps`` shows it (15 bytes)."""
    buffer = _names.get(name)
    if buffer is None:
        # Kept, so that a forked process which takes the same name makes nothing new.
        buffer = _names[name] = ctypes.create_string_buffer(name.encode()[:15])
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def take_descriptor(pidfd: int, number: int) -> int:
    """A duplicate of another process's descriptor (pidfd_getfd)."""
    fd = _pidfd_getfd(pidfd, number, 0)
    if fd < 0:
        raise error(f"take descriptor {number}")
    return fd


def close_range(first: int, last: int = _LAST_FD, flags: int = 0) -> None:
    """Close the descriptors from ``first`` to ``last``, or with CLOSE_RANGE_CLOEXEC mark them."""
    if _close_range(first, last, flags) < 0:
        raise error("close descriptors")


def close_all_but(kept: Sequence[int]) -> None:
    """Close every descriptor that is not in ``kept``."""
    first = 0
    for fd in sorted(set(kept)):
        if fd > first:
            close_range(first, fd - 1)
        first = fd + 1
    close_range(first)


def set_hostname(name: str) -> None:
    raw = name.encode()
    if _sethostname(raw, len(raw)) < 0:
        raise error(f"set host name {name}")


def set_domainname(name: str) -> None:
    raw = name.encode()
    if _setdomainname(raw, len(raw)) < 0:
        raise error(f"set domain name {name}")


def set_personality(persona: int) -> None:
    if _personality(persona) < 0:
        raise error("set personality")


def new_session_keyring(name: str) -> None:
    """Leave the inherited session keyring for a new one (KEYCTL_JOIN_SESSION_KEYRING)."""
    if _keyctl(1, name.encode()) < 0:
        raise error("make a session keyring")


def reset_signals(numbers: Iterable[int] | None = None) -> None:
    """Default dispositions (of ``numbers``, or of all) and an empty mask: what a program expects
    after execve."""
    signals.pthread_sigmask(signals.SIG_SETMASK, ())
    for number in range(1, signals.NSIG) if numbers is None else numbers:
        if number in (signals.SIGKILL, signals.SIGSTOP):
            continue
        try:
            signals.signal(number, signals.SIG_DFL)
        except (OSError, ValueError):
            continue


def start_time(pid: int) -> int:
    """A process's start time in clock ticks since boot: tells a reused number from the old one.

    Raises OSError (FileNotFoundError, ProcessLookupError) when there is no such process.
    """
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        stat = os.read(fd, 4096)
    finally:
        os.close(fd)
    return int(stat[stat.rindex(b")") + 2 :].split()[19])
