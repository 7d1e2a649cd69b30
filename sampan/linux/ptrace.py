"""ptrace(2): hold a process at the entry of one of its own system calls."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

from sampan.linux.syscalls import error, long_function

_DETACH, _SYSCALL, _SEIZE, _INTERRUPT, _GET_SYSCALL_INFO = 17, 24, 0x4206, 0x4207, 0x420E
_TRACESYSGOOD = 1
_WALL = 0x40000000
_ENTRY = 1
# struct ptrace_syscall_info: op, arch, instruction and stack pointers; then number and arguments.
_INFO = struct.Struct("=B3xIQQQ6Q")
_INFO_SIZE = 88

_ptrace = long_function("ptrace", ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class SystemCall(NamedTuple):
    """A system call that is about to be made."""

    number: int
    arguments: tuple[int, ...]


class Tracee:
    """Another process under this one's control.  Every method raises OSError."""

    def __init__(self, pid: int) -> None:
        """Stop the process.  PermissionError: the host does not let one process trace another."""
        self._pid = pid
        self._info = (ctypes.c_char * _INFO_SIZE)()
        self._request(_SEIZE, 0, _TRACESYSGOOD)
        self._request(_INTERRUPT)
        os.waitpid(pid, _WALL)
        self._request(_SYSCALL)

    def next_call(self) -> SystemCall:
        """Let it run to the entry of its next system call, and hold it there."""
        while True:
            os.waitpid(self._pid, _WALL)
            self._request(_GET_SYSCALL_INFO, _INFO_SIZE, ctypes.addressof(self._info))
            op, _, _, _, number, *arguments = _INFO.unpack_from(self._info.raw)
            if op == _ENTRY:
                return SystemCall(number, tuple(arguments))
            self._request(_SYSCALL)

    def proceed(self) -> None:
        """Let it make the call; wait for the one after by :meth:`next_call`."""
        self._request(_SYSCALL)

    def release(self) -> None:
        """Let it run free."""
        self._request(_DETACH)

    def _request(self, request: int, address: int = 0, data: int = 0) -> None:
        if _ptrace(request, self._pid, address, data) < 0:
            raise error(f"ptrace process {self._pid}")
