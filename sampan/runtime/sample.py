"""A sample of a keeper's pages at rest, which becomes a part of the spawner's memory file.

What a keeper has written to, when its container runs and nothing goes on, is all but the same in
every keeper: one reference more to this, a pool of small objects begun there.  So before the
spawner serves, it forks a keeper as for a container (:mod:`sampan.runtime.model`) and lets it come
to rest; its pages replace those of the memory file, where the spawner itself has its own from then
on.  When a keeper comes to rest, it gives back what is equal (:func:`compact.trim`).

Whatever a keeper asks of this module it reads in memory that all share, so that a model's memory
is in nothing another one.  And what the spawner does between the model and the first keeper, it
does with functions that were found before: attributes that are found for the first time go to the
interpreter's cache, whose pages every keeper would have to itself then.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable

from sampan.linux import mappings

HIGH = 100
"""From this one on are the descriptors that a keeper does not have: its own get the same numbers,
whichever of these there are."""
SETTLED = 0.3
"""Seconds after a start, or the end of an exec, at which a keeper is at rest."""
_IOVEC = struct.Struct("=QQ")
_LIST_SIZE = mappings.LISTED * mappings.IOVEC_SIZE
# Behind the list: whether a sample is wanted, whether one is made, and the seconds.
_STATE = struct.Struct("=QQd")
_MADE, _SECONDS = 8, 16
_populate_listed = mappings.populate_listed
_place = 0
"""The list of the sample's pages, in shared memory."""
_state = 0
_copies = -1
"""A memory file with the contents of these pages, in the list's order."""


def prepare() -> None:
    """Called in the spawner: a sample is wanted."""
    global _place, _state, _copies
    _place = mappings.anonymous(_LIST_SIZE + mappings.PAGE, shared=True)
    _state = _place + _LIST_SIZE
    low = os.memfd_create("sampan-sample", os.MFD_CLOEXEC)
    _copies = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(low)
    mappings.write(_state, _STATE.pack(1, 0, 0.0))


def wanted() -> bool:
    """Whether the caller is to be, or to fork, a model."""
    return bool(_state and mappings.word(_state))


def settled() -> float:
    """After how many seconds a keeper is at rest; a model is at once."""
    return mappings.double(_state + _SECONDS) if _state else SETTLED


def make(pages: Iterable[tuple[int, bytes]]) -> None:
    """In the helper that holds a model: keep a copy of its pages."""
    listed: list[bytes] = []
    for address, content in list(pages)[: mappings.LISTED]:
        os.pwrite(_copies, content, len(listed) * mappings.PAGE)
        listed.append(_IOVEC.pack(address, mappings.PAGE))
    mappings.write(_place, b"".join(listed))
    mappings.write(_state, _STATE.pack(1, 1, 0.0))


def use(heap: int) -> None:
    """Called in the spawner, which must have no child: put the sample, if there is one, into the
    memory file ``heap``, and make what it replaces pages of the spawner's own."""
    made = mappings.word(_state + _MADE)
    mappings.write(_state, _STATE.pack(0, 0, SETTLED))
    if made and _own_listed():
        # By a child, so that this process's memory stays as it was when the model was forked.
        helper = os.fork()
        if not helper:
            try:
                _write(heap)
            finally:
                os._exit(0)
        try:
            os.waitpid(helper, 0)
        except ChildProcessError:
            pass  # it has ended: the ends of ignored children are told in this way
    os.close(_copies)


def _own_listed() -> bool:
    pidfd = os.pidfd_open(os.getpid())
    try:
        _populate_listed(pidfd, _place)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


def _write(heap: int) -> None:
    """In the helper: replace those of the file's pages that neither process has from it."""
    maps, pagemap = mappings.open_own()
    offsets = {
        page: part.offset + page - part.start
        for part in mappings.of_file(maps, mappings.HEAP_NAME)
        for page in mappings.own_pages(pagemap, part.start, part.end)
    }
    for index in range(mappings.LISTED):
        offset = offsets.get(mappings.word(_place + index * _IOVEC.size))
        if offset is not None:
            content = os.pread(_copies, mappings.PAGE, index * mappings.PAGE)
            os.pwrite(heap, content, offset)
