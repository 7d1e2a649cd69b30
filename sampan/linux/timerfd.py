"""A timer that is read like a file, for loops that wait on descriptors (timerfd_create(2))."""

from __future__ import annotations

import ctypes
import os

from sampan.linux.syscalls import error, function

_CLOCK_MONOTONIC = 1
_NONBLOCK = os.O_NONBLOCK
_CLOEXEC = os.O_CLOEXEC


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


_create = function("timerfd_create", ctypes.c_int, ctypes.c_int)
_set = function(
    "timerfd_settime", ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Setting), ctypes.c_void_p
)


def create() -> int:
    """A stopped timer on the monotonic clock; the descriptor is non-blocking."""
    fd: int = _create(_CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC)
    if fd < 0:
        raise error("make a timer")
    return fd


def set_after(fd: int, seconds: float) -> None:
    """Let the timer be readable once, after ``seconds`` (at least a nanosecond)."""
    nanoseconds = max(1, int(seconds * 1e9))
    whole, rest = divmod(nanoseconds, 1_000_000_000)
    setting = _Setting(_TimeSpec(0, 0), _TimeSpec(whole, rest))
    if _set(fd, 0, ctypes.byref(setting), None) < 0:
        raise error("set a timer")
