"""Install a seccomp filter: a classic BPF program over ``struct seccomp_data``."""

from __future__ import annotations

import ctypes

from sampan.linux.syscalls import by_machine, error, numbered

_SET_MODE_FILTER = 1
INSTRUCTION_SIZE = 8
MAX_INSTRUCTIONS = 4096

FLAG_TSYNC = 1
FLAG_LOG = 2
FLAG_SPEC_ALLOW = 4
FLAG_NEW_LISTENER = 8
FLAG_WAIT_KILLABLE_RECV = 32


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_seccomp = numbered(by_machine(317, 277), ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(_Program))


def install(program: bytes, flags: int = 0) -> int:
    """Put the filter on the calling thread; needs CAP_SYS_ADMIN or no_new_privs.

    With FLAG_NEW_LISTENER the result is the descriptor on which calls are notified.
    """
    loaded = _Program(len(program) // INSTRUCTION_SIZE, program)
    result = _seccomp(_SET_MODE_FILTER, flags, ctypes.byref(loaded))
    if result < 0:
        raise error("install the seccomp filter")
    return result
