"""Fault in, at one go, the pages that a forked process is going to write to.

Children of the spawner that do the same work write to the same pages, one fault and copy each.
The first one of each role lists what it has written to, in memory that all share; those after it
have the kernel copy these pages by a single call before they are needed, mostly while they still
wait for their work.  Nothing happens where the kernel does not take such a list (Linux < 6.13).
"""

from __future__ import annotations

import enum
import os
import struct

from sampan.linux import mappings

_IOVEC = struct.Struct("=QQ")
_SIZE = mappings.LISTED * mappings.IOVEC_SIZE


class Role(enum.IntEnum):
    """What a child of the spawner does that does not stay: a keeper would keep such pages."""

    STARTER = 0
    FIRST = 1
    """It becomes a container's first process."""


_lists = 0
_PLACES = {role: int(role) * _SIZE for role in Role}


def prepare() -> None:
    """Make the shared memory; called in the spawner."""
    global _lists
    _lists = mappings.anonymous(len(Role) * _SIZE, shared=True)


def fault_in(role: Role) -> bool:
    """Fault in what processes of a role are known to write to; False if nothing is known."""
    if not _lists:
        return True
    place = _lists + _PLACES[role]
    if not mappings.word(place):
        return False
    pidfd = os.pidfd_open(os.getpid())
    try:
        mappings.populate_listed(pidfd, place)
    except OSError:
        pass  # each by its own fault, then
    os.close(pidfd)
    return True


class Lesson:
    """One process's work: faults in what is known to be needed, lists it if nothing is known."""

    def __init__(self, role: Role) -> None:
        """Called before the work, with the host's /proc in place."""
        self._files: tuple[int, int] | None = None
        self._place = _lists + _PLACES[role]
        if not fault_in(role):
            try:
                self._files = mappings.open_own()
            except OSError:
                pass  # the next one may learn it

    def end(self) -> None:
        """Called after the work; opens nothing."""
        if self._files is None:
            return
        maps, pagemap = self._files
        pages = [
            page
            for part in mappings.of_file(maps, mappings.HEAP_NAME)
            for page in mappings.written_pages(pagemap, part.start, part.end)
        ]
        for fd in self._files:
            os.close(fd)
        self._files = None
        if mappings.word(self._place):
            return
        gap = 1
        while len(ranges := _joined(pages, gap)) > mappings.LISTED:
            gap *= 2
        data = b"".join(_IOVEC.pack(start, end - start) for start, end in ranges)
        mappings.write(self._place, data)


def _joined(pages: list[int], gap: int) -> list[tuple[int, int]]:
    """Ranges of pages that are less than ``gap`` pages apart."""
    ranges: list[tuple[int, int]] = []
    for page in pages:
        if ranges and page - ranges[-1][1] < gap * mappings.PAGE:
            ranges[-1] = (ranges[-1][0], page + mappings.PAGE)
        else:
            ranges.append((page, page + mappings.PAGE))
    return ranges
