"""A process's memory mappings: list them, replace them, fault them in."""

from __future__ import annotations

import array
import ctypes
import os
from typing import NamedTuple

from sampan.linux import files
from sampan.linux.syscalls import error, function, numbered, pointer_function

PAGE = os.sysconf("SC_PAGE_SIZE")
_READ_WRITE = 3
_PRIVATE = 2
_ANONYMOUS = 0x20
_DONTNEED = 4
LISTED = 1024
IOVEC_SIZE = 16
_PRESENT, _SWAPPED, _FILE = 1 << 63, 1 << 62, 1 << 61
_MAYMOVE_FIXED = 3
_POPULATE_WRITE = 23
_FAILED = ctypes.c_void_p(-1).value

_size = ctypes.c_size_t
_mmap = pointer_function(
    "mmap", ctypes.c_void_p, _size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
)
_mremap = pointer_function("mremap", ctypes.c_void_p, _size, _size, ctypes.c_int, ctypes.c_void_p)
_munmap = function("munmap", ctypes.c_void_p, _size)
_process_madvise = numbered(440, ctypes.c_int, ctypes.c_void_p, _size, ctypes.c_int, ctypes.c_uint)
_madvise = function("madvise", ctypes.c_void_p, _size, ctypes.c_int)


class Range(NamedTuple):
    """Addresses from ``start`` up to ``end``."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def private_writable() -> list[Range]:
    """The calling process's private writable mappings but the stack, neighbours joined."""
    found: list[Range] = []
    for line in files.read("/proc/self/maps").decode().splitlines():
        fields = line.split(None, 5)
        name = fields[5] if len(fields) > 5 else ""
        if fields[1] != "rw-p" or name in ("[stack]", "[vvar]"):
            continue
        start, end = (int(number, 16) for number in fields[0].split("-"))
        if found and found[-1].end == start:
            start = found.pop().start
        found.append(Range(start, end))
    return found


def map_private(fd: int, offset: int, size: int) -> int:
    """Map a part of a file copy-on-write; the address."""
    address = _mmap(None, size, _READ_WRITE, _PRIVATE, fd, offset)
    if address is None or address == _FAILED:
        raise error("mmap")
    return address


def move_over(source: int, target: int, size: int) -> None:
    """Move the mapping at ``source`` over whatever is at ``target``, in one system call."""
    if _mremap(source, size, size, _MAYMOVE_FIXED, target) != target:
        raise error("mremap")


def populate(start: int, size: int) -> None:
    """Make the pages present and writable now, which is cheaper than one fault for each
    (Linux ≥ 5.14)."""
    if _madvise(start, size, _POPULATE_WRITE) < 0:
        raise error("madvise")


def anonymous(size: int) -> int:
    """Map zeroed memory; the address."""
    address = _mmap(None, size, _READ_WRITE, _PRIVATE | _ANONYMOUS, -1, 0)
    if address is None or address == _FAILED:
        raise error("mmap")
    return address


def unmap(start: int, size: int) -> None:
    if _munmap(start, size) < 0:
        raise error("munmap")


def discard_listed(pidfd: int, ranges: int) -> None:
    """Forget the changes of the caller's private file mappings in the ranges listed, all in one
    system call.  ``ranges`` is the address of :data:`LISTED` iovecs; empty ones are skipped.

    ``pidfd`` is of the calling process.  OSError (EINVAL) before Linux 6.13.
    """
    if _process_madvise(pidfd, ranges, LISTED, _DONTNEED, 0) < 0:
        raise error("process_madvise")


class Mapped(NamedTuple):
    """A part of a file in a process's memory."""

    start: int
    end: int
    offset: int


def of_file(pid: int, name: str) -> list[Mapped]:
    """The private writable mappings of the file that shows as ``name``."""
    found = []
    for line in files.read(f"/proc/{pid}/maps").decode().splitlines():
        fields = line.split(None, 5)
        if len(fields) > 5 and fields[5] == name and fields[1] == "rw-p":
            start, end = (int(number, 16) for number in fields[0].split("-"))
            found.append(Mapped(start, end, int(fields[2], 16)))
    return found


def own_pages(pid: int, start: int, end: int) -> list[int]:
    """Addresses of the pages in a mapping of a file that are no longer the file's."""
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        entries = array.array("Q", os.pread(fd, (end - start) // PAGE * 8, start // PAGE * 8))
    finally:
        os.close(fd)
    return [
        start + index * PAGE
        for index, entry in enumerate(entries)
        if entry & _SWAPPED or (entry & _PRESENT and not entry & _FILE)
    ]
