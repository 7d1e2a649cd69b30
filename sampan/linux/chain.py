"""System calls made directly one after another, with nothing of the interpreter in between.

Between two calls that are made from Python, the interpreter writes to its memory.  Where that
matters, the calls are made here by the C library's contexts (makecontext(3)): the function of each
is syscall(2), and the end of each is the beginning of the next.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import select
import struct
from collections.abc import Sequence

from sampan.linux import mappings
from sampan.linux.syscalls import MACHINE, address_of, by_machine, error, function

_CONTEXT = 1024 if MACHINE == "x86_64" else 5120
"""Bytes that hold a ucontext_t."""
_STACK = 1024
"""Bytes of stack for each call: syscall(2) needs next to none, and no signal may have a handler."""
_WAIT = 24
"""Bytes that hold a pollfd and a timespec."""
_POLLFD, _TIMESPEC = struct.Struct("=ihh"), struct.Struct("=qq")
# In struct ucontext_t, after the flags: link; the stack's address, flags and size.
_FLAGS_SIZE = 8
_HEAD = struct.Struct("=QQi4xQ")

_long = ctypes.c_long
_pointer = ctypes.c_void_p
try:
    _get = function("getcontext", _pointer)
    _make = function("makecontext", _pointer, _pointer, ctypes.c_int, *[_long] * 7)
    _swap = function("swapcontext", _pointer, _pointer)
    _available = True
except AttributeError:
    _available = False  # musl has no contexts
_syscall = address_of("syscall")


_PROCESS_MADVISE = 440
_CLOSE, _WAIT4, _PPOLL = by_machine(3, 57), by_machine(61, 260), by_machine(271, 73)

Call = tuple[int, ...]
"""The number of a system call, and up to six arguments."""


def discard_listed(pidfd: int, ranges: int) -> Call:
    """As :func:`sampan.linux.mappings.discard_listed`."""
    return _PROCESS_MADVISE, pidfd, ranges, mappings.LISTED, mappings.DONTNEED, 0


def close(fd: int) -> Call:
    return _CLOSE, fd


def wait_for_child(pid: int) -> Call:
    """Collect it; its status is lost."""
    return _WAIT4, pid, 0, 0, 0


class Chain:
    """A place for a number of calls."""

    def __init__(self, length: int) -> None:
        """For up to ``length`` calls.  OSError if there is no memory, or the C library has no
        contexts."""
        if not _available:
            raise OSError(errno.ENOSYS, "makecontext: " + os.strerror(errno.ENOSYS))
        self._length = length
        size = (length + 1) * _CONTEXT + length * _STACK + _WAIT
        self._memory = mappings.anonymous(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        self._stacks = self._memory + (length + 1) * _CONTEXT
        self._wait = self._stacks + length * _STACK

    def wait_for_event(self, epoll: int, seconds: float) -> Call:
        """Wait until an epoll descriptor has an event, which is not taken; negative ``seconds``:
        without a limit.  The last of these that was asked for counts."""
        # Not by epoll itself: of several events it would put the one that it tells of behind the
        # others, and who takes them next would see what was written second before the first.
        mappings.write(self._wait, _POLLFD.pack(epoll, select.POLLIN, 0))
        if seconds < 0:
            return _PPOLL, self._wait, 1, 0, 0, 8
        timeout = self._wait + _POLLFD.size
        nanoseconds = math.ceil(seconds * 1e9)
        mappings.write(timeout, _TIMESPEC.pack(*divmod(nanoseconds, 10**9)))
        return _PPOLL, self._wait, 1, timeout, 0, 8

    def run(self, calls: Sequence[Call]) -> None:
        """Make the calls.  Their results are lost."""
        back = after = self._memory
        for index in range(len(calls) - 1, -1, -1):
            context = self._memory + (index + 1) * _CONTEXT
            if _get(context) < 0:
                raise error("getcontext")
            stack = self._stacks + index * _STACK
            mappings.write(context + _FLAGS_SIZE, _HEAD.pack(after, stack, 0, _STACK))
            call = calls[index]
            _make(context, _syscall, 7, *call, *[0] * (7 - len(call)))
            after = context
        if _swap(back, after) < 0:
            raise error("swapcontext")
