"""Anonymous memory files, sealed against every change."""

from __future__ import annotations

import fcntl
import os

_F_ADD_SEALS = 1033
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_WRITE = 1, 2, 4, 8
_MFD_EXEC = 0x10
SEALS = _F_SEAL_SEAL | _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_WRITE


def seal(fd: int) -> None:
    fcntl.fcntl(fd, _F_ADD_SEALS, SEALS)


def sealed_bytes(name: str, data: bytes) -> int:
    """A sealed memory file with ``data``."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    seal(fd)
    return fd


def sealed_copy(path: str, name: str) -> int:
    """A sealed, executable memory copy of a file: what runs from it cannot be overwritten."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | _MFD_EXEC)
    except OSError:  # Linux < 6.3 knows no MFD_EXEC; memory files are executable there
        fd = os.memfd_create(name, flags)
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while os.sendfile(fd, source, None, 1 << 30):
            pass
    except OSError:
        os.close(fd)
        raise
    finally:
        os.close(source)
    seal(fd)
    return fd


def read_all(fd: int) -> bytes:
    """The whole content of a memory file, from its beginning."""
    return os.pread(fd, os.fstat(fd).st_size, 0)
