"""syncfs(2): write out one file system."""

from __future__ import annotations

import ctypes
import os

from sampan.linux.syscalls import error, function

_syncfs = function("syncfs", ctypes.c_int)


def syncfs(path: str | os.PathLike[str]) -> None:
    """Write everything of the file system that holds ``path`` to its device, and wait."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _syncfs(fd) < 0:
            raise error(f"sync the file system of {os.fspath(path)}")
    finally:
        os.close(fd)
