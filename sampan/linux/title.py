"""A process's command line as ``ps`` shows it: it is read from where the first arguments lie."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from sampan.linux import files

_ARGUMENTS = slice(47, 49)
"""``arg_start`` and ``arg_end`` among the fields of /proc/PID/stat (proc_pid_stat(5))."""
_start = _size = 0


def locate() -> None:
    """Find the place, with the host's /proc; for the calling process and those it will fork."""
    global _start, _size
    fields = files.read("/proc/self/stat").rpartition(b")")[2].split()
    # What stands after the name begins with the third field.
    first, last = (int(word) for word in fields[_ARGUMENTS.start - 2 : _ARGUMENTS.stop - 2])
    _start, _size = first, last - first


def show(words: Sequence[str]) -> None:
    """Have ``ps`` show ``words``, cut to the room there is; without :func:`locate` nothing is."""
    if _size:
        text = "\0".join(words).encode(errors="surrogateescape")[: _size - 1]
        ctypes.memmove(_start, text.ljust(_size, b"\0"), _size)
