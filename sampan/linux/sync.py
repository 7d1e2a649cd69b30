"""syncfs(2) and sync_file_range(2): write out a file system, or begin to write a file."""

from __future__ import annotations

import ctypes
import os

from sampan.linux.syscalls import error, function

_syncfs = function("syncfs", ctypes.c_int)
_sync_file_range = function(
    "sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
)
_WRITE = 2


def begin_writing(fd: int, offset: int, length: int) -> None:
    """Let the kernel begin to write a range of a file to its device, so that a later fsync finds
    little to do.  Only a hint: failures mean nothing."""
    _sync_file_range(fd, offset, length, _WRITE)


def syncfs(path: str | os.PathLike[str]) -> None:
    """Write everything of the file system that holds ``path`` to its device, and wait."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _syncfs(fd) < 0:
            raise error(f"sync the file system of {os.fspath(path)}")
    finally:
        os.close(fd)
