"""Move the spawner's memory into a memory file, so that its children begin with none of it.

A fork copies the page table of anonymous memory: every keeper would have all of the spawner's
heap mapped, and be charged its share of it.  Pages of a file are mapped when they are touched.  So
before it serves, the spawner's heap is copied to a memory file and that is mapped, copy-on-write,
in the heap's place.  The copy must be exact at the moment of the exchange, so it is made by a
helper process that holds the spawner, by ptrace, at the entry of the mremap(2) which makes the
exchange.  Where tracing is forbidden everything works as well with more memory.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from typing import NamedTuple

from sampan.linux import chain, mappings
from sampan.linux.chain import Chain
from sampan.linux.ptrace import Tracee
from sampan.runtime import sample

_CHUNK = 1 << 20
_ALIGNMENT, _SMALL, _POOL = 16, 512, 16384
_EMPTY_BYTES = sys.getsizeof(b"")
_MOST = 20000


_LISTED_SIZE = mappings.LISTED * mappings.IOVEC_SIZE
_heap = -1
_listed = 0
"""Where a process lists the ranges that it discards."""
_calls: Chain | None = None
_discards = False
"""Whether the kernel takes such a list."""
_IOVEC = struct.Struct("=QQ")
_use = sample.use


class _Move(NamedTuple):
    target: int
    size: int
    offset: int
    source: int


def fill_holes() -> list[object]:
    """Take the free places between living objects, so that new ones will lie side by side.

    Python's allocator gives out the places of one size in turn, from pools that are in part used,
    anywhere in the heap.  The result is to be kept.
    """
    taken: list[object] = []
    for size in range(_ALIGNMENT, _SMALL + 1, _ALIGNMENT):
        before, in_a_row = 0, 0
        for _ in range(_MOST):
            if size == _ALIGNMENT:
                made: object = object()
            elif size < _EMPTY_BYTES + _ALIGNMENT:
                made = 1 << 40 | len(taken)
            else:
                made = bytes(size - _EMPTY_BYTES)
            taken.append(made)
            in_a_row = in_a_row + 1 if id(made) == before + size else 0
            before = id(made)
            if in_a_row * size > _POOL // 2:
                break  # it comes from a pool that was empty
    return taken


def compact() -> bool:
    """Exchange the calling process's private memory; False if the host does not allow it.

    The process must have one thread.
    """
    global _heap, _listed, _discards, _calls
    ranges = mappings.private_writable()
    heap = os.memfd_create("sampan-heap", os.MFD_CLOEXEC)
    try:
        # Now, so that want of memory is found out before the point of no return.
        os.posix_fallocate(heap, 0, sum(part.size for part in ranges))
    except OSError:
        os.close(heap)
        return False
    moves: dict[int, _Move] = {}
    offset = 0
    for part in ranges:
        source = mappings.map_private(heap, offset, part.size)
        moves[source] = _Move(part.start, part.size, offset, source)
        offset += part.size
    parent = os.getpid()
    ready, told = os.pipe2(os.O_CLOEXEC)
    helper = os.fork()
    if not helper:
        try:
            _hold_and_copy(parent, heap, moves, told)
        except BaseException:
            # It must not go on with half a memory; whoever has started it is told by its end.
            os.kill(parent, signal.SIGKILL)
        finally:
            os._exit(0)
    os.close(told)
    held = bool(os.read(ready, 1))
    os.close(ready)
    if held:
        for move in list(moves.values()):
            mappings.move_over(move.source, move.target, move.size)
    os.waitpid(helper, 0)
    if held:
        _heap = heap
        _listed = mappings.anonymous(_LISTED_SIZE)
        try:
            _calls = Chain(4)
            _discards = _discard_listed()
        except OSError:
            _discards = False
        if _discards:
            sample.prepare()
    else:
        os.close(heap)
    return held


def trim(epoll: int, seconds: float) -> None:
    """Give back the pages that the calling process has in common with the memory file, then wait.

    Returns when the descriptor ``epoll`` has an event, or after a number of seconds (negative:
    there is no limit).  Most pages are written to only to count a reference and to take it back.
    Such a page has the memory file's content again, and is replaced by the file's; so are those
    that were only read.  A helper finds them while this process is held at the very call that
    discards them; the wait follows that call directly.  Nothing happens, and it returns at once,
    where that is not possible (Linux < 6.13, or tracing is forbidden).
    """
    if not _discards or _calls is None:
        return
    pid = os.getpid()
    pidfd = os.pidfd_open(pid)
    ready, told = os.pipe2(os.O_CLOEXEC)
    helper = os.fork()
    if not helper:
        try:
            _hold_and_list(pid, told)
        finally:
            os._exit(0)
    os.close(told)
    held = os.read(ready, 1)
    os.close(ready)
    if not held:
        os.close(pidfd)
        os.waitpid(helper, 0)
        return
    _calls.run(
        (
            chain.discard_listed(pidfd, _listed),
            chain.close(pidfd),
            chain.wait_for_child(helper),
            _calls.wait_for_event(epoll, seconds),
        )
    )


def use_sample() -> None:
    """Called in the spawner, which must have no child (see :mod:`sampan.runtime.sample`)."""
    _use(_heap)


def _discard_listed() -> bool:
    """Discard what is listed, which is nothing at first; False if the kernel cannot."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        mappings.discard_listed(pidfd, _listed)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _hold_and_list(pid: int, told: int) -> None:
    """In the helper: write the list of what can be discarded into the held process's memory."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        tracee = Tracee(pid)
    except OSError:
        return
    os.write(told, b"1")
    while tracee.next_call().arguments[1] != _listed:
        tracee.proceed()
    listed, kept = [], []
    maps, pagemap = mappings.open_of(pid)
    for part in mappings.of_file(maps, mappings.HEAP_NAME):
        start = part.start
        for page in mappings.own_pages(pagemap, part.start, part.end):
            own = os.pread(memory, mappings.PAGE, page)
            if own != os.pread(_heap, mappings.PAGE, part.offset + page - part.start):
                kept.append((page, own))
                if page > start:
                    listed.append(_IOVEC.pack(start, page - start))
                start = page + mappings.PAGE
        if part.end > start:
            listed.append(_IOVEC.pack(start, part.end - start))
    if sample.wanted():
        sample.make(kept)
        os.killpg(pid, signal.SIGKILL)
    # The list itself is read at once, and can go with the rest.
    listed[_LISTED_SIZE // _IOVEC.size - 1 :] = []
    listed.append(_IOVEC.pack(_listed, _LISTED_SIZE))
    os.pwrite(memory, b"".join(listed), _listed)
    tracee.release()


def _hold_and_copy(pid: int, heap: int, moves: dict[int, _Move], told: int) -> None:
    """In the helper: copy each range while its owner is about to exchange it."""
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        tracee = Tracee(pid)
    except OSError:
        return
    os.write(told, b"1")
    while True:
        call = tracee.next_call()
        move = moves.get(call.arguments[0])
        if move and call.arguments[4] == move.target:
            done = 0
            while done < move.size:
                size = min(_CHUNK, move.size - done)
                part = os.pread(memory, size, move.target + done)
                done += os.pwrite(heap, part, move.offset + done)
            del moves[move.source]
            if not moves:
                tracee.release()
                return
        tracee.proceed()
