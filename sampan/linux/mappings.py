"""A process's memory mappings: list them, replace them, take back and fault in their pages."""

from __future__ import annotations

import array
import ctypes
import os
from typing import NamedTuple

from sampan.linux import files
from sampan.linux.syscalls import error, numbered, pointer_function

PAGE = os.sysconf("SC_PAGE_SIZE")
_READ_WRITE = 3
_SHARED, _PRIVATE = 1, 2
_ANONYMOUS = 0x20
DONTNEED = 4
HEAP_NAME = "/memfd:sampan-heap (deleted)"
LISTED = 1024
IOVEC_SIZE = 16
_PRESENT, _SWAPPED, _FILE, _EXCLUSIVE = 1 << 63, 1 << 62, 1 << 61, 1 << 56
_MAYMOVE_FIXED = 3
_POPULATE_WRITE = 23
_FAILED = ctypes.c_void_p(-1).value

_size = ctypes.c_size_t
_mmap = pointer_function(
    "mmap", ctypes.c_void_p, _size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
)
_mremap = pointer_function("mremap", ctypes.c_void_p, _size, _size, ctypes.c_int, ctypes.c_void_p)
_process_madvise = numbered(440, ctypes.c_int, ctypes.c_void_p, _size, ctypes.c_int, ctypes.c_uint)


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


def anonymous(size: int, *, shared: bool = False) -> int:
    """Map zeroed memory; the address."""
    flags = _ANONYMOUS | (_SHARED if shared else _PRIVATE)
    address = _mmap(None, size, _READ_WRITE, flags, -1, 0)
    if address is None or address == _FAILED:
        raise error("mmap")
    return address


def discard_listed(pidfd: int, ranges: int) -> None:
    """Forget the changes of the caller's private file mappings in the ranges listed, all in one
    system call.  ``ranges`` is the address of :data:`LISTED` iovecs; empty ones are skipped.

    ``pidfd`` is of the calling process.  OSError (EINVAL) before Linux 6.13.
    """
    if _process_madvise(pidfd, ranges, LISTED, DONTNEED, 0) < 0:
        raise error("process_madvise")


def populate_listed(pidfd: int, ranges: int) -> None:
    """As :func:`discard_listed`: make the pages present and the caller's own."""
    if _process_madvise(pidfd, ranges, LISTED, _POPULATE_WRITE, 0) < 0:
        raise error("process_madvise")


class Mapped(NamedTuple):
    """A part of a file in a process's memory."""

    start: int
    end: int
    offset: int


def open_own() -> tuple[int, int]:
    """Descriptors of the calling process's list of mappings and of its page map."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    maps = os.open("/proc/self/maps", flags)
    try:
        return maps, os.open("/proc/self/pagemap", flags)
    except OSError:
        os.close(maps)
        raise


def open_of(pid: int) -> tuple[int, int]:
    """As :func:`open_own` for another process."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    return os.open(f"/proc/{pid}/maps", flags), os.open(f"/proc/{pid}/pagemap", flags)


def of_file(maps: int, name: str) -> list[Mapped]:
    """The private writable mappings of the file that shows as ``name``."""
    os.lseek(maps, 0, os.SEEK_SET)
    text = b"".join(iter(lambda: os.read(maps, 1 << 16), b""))
    found = []
    for line in text.decode().splitlines():
        fields = line.split(None, 5)
        if len(fields) > 5 and fields[5] == name and fields[1] == "rw-p":
            start, end = (int(number, 16) for number in fields[0].split("-"))
            found.append(Mapped(start, end, int(fields[2], 16)))
    return found


def own_pages(pagemap: int, start: int, end: int) -> list[int]:
    """Addresses of the pages in a mapping of a file that are no longer the file's."""
    return [
        start + index * PAGE
        for index, entry in enumerate(_entries(pagemap, start, end))
        if entry & _SWAPPED or (entry & _PRESENT and not entry & _FILE)
    ]


def written_pages(pagemap: int, start: int, end: int) -> list[int]:
    """As :func:`own_pages`, without those that are as they were when the process was forked."""
    return [
        start + index * PAGE
        for index, entry in enumerate(_entries(pagemap, start, end))
        if entry & _SWAPPED or (entry & _PRESENT and entry & _EXCLUSIVE and not entry & _FILE)
    ]


def _entries(pagemap: int, start: int, end: int) -> array.array[int]:
    return array.array("Q", os.pread(pagemap, (end - start) // PAGE * 8, start // PAGE * 8))


def word(address: int) -> int:
    """The 64-bit number at an address of the caller's."""
    return ctypes.c_uint64.from_address(address).value


def double(address: int) -> float:
    """The floating-point number at an address of the caller's."""
    return ctypes.c_double.from_address(address).value


def write(address: int, data: bytes) -> None:
    """Write at an address of the caller's."""
    ctypes.memmove(address, data, len(data))
