"""Small files of the kernel's (procfs, sysfs, cgroupfs), read and written in one call each."""

from __future__ import annotations

import os

_READ = os.O_RDONLY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CLOEXEC
# As much as the C library's heap gives without a mapping of its own.
_PART = 1 << 16


def read(path: str, dir_fd: int | None = None) -> bytes:
    """The file's content."""
    fd = os.open(path, _READ, dir_fd=dir_fd)
    try:
        parts = []
        while part := os.read(fd, _PART):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def write(path: str, value: bytes | str, dir_fd: int | None = None) -> None:
    """Write the value by a single write(2), as these files want; the error names the file."""
    data = value.encode() if isinstance(value, str) else value
    try:
        fd = os.open(path, _WRITE, dir_fd=dir_fd)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as failure:
        text = data.decode(errors="replace").strip()
        raise OSError(failure.errno, f"write {text} to {path}: {failure.strerror}") from None
