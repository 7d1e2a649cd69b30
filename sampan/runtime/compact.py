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
from typing import NamedTuple

from sampan.linux import mappings
from sampan.linux.ptrace import Tracee

_CHUNK = 1 << 20


_NAME = "/memfd:sampan-heap (deleted)"
_heap = -1
_IOVEC = struct.Struct("=QQ")


class _Move(NamedTuple):
    target: int
    size: int
    offset: int
    source: int


def compact() -> bool:
    """Exchange the calling process's private memory; False if the host does not allow it.

    The process must have one thread.
    """
    global _heap
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
    else:
        os.close(heap)
    return held


def trim() -> None:
    """Give back the pages that the calling process has in common with the spawner's memory.

    Most pages are written to only to count a reference and to take it back.  Such a page has the
    memory file's content again, and is replaced by the file's; so are those that were only read.
    A helper finds them while this process is held at the very call that discards them.  Nothing
    happens where that is not possible (Linux < 6.13, or tracing is forbidden).
    """
    if _heap < 0:
        return
    size = mappings.LISTED * mappings.IOVEC_SIZE
    pid = os.getpid()
    ready, told = os.pipe2(os.O_CLOEXEC)
    pidfd = os.pidfd_open(pid)
    ranges = mappings.anonymous(size)
    helper = os.fork()
    if not helper:
        try:
            _hold_and_list(pid, ranges, told)
        finally:
            os._exit(0)
    os.close(told)
    try:
        if os.read(ready, 1):
            mappings.discard_listed(pidfd, ranges)
    except OSError:
        pass
    mappings.unmap(ranges, size)
    os.close(ready)
    os.close(pidfd)
    os.waitpid(helper, 0)


def _hold_and_list(pid: int, ranges: int, told: int) -> None:
    """In the helper: write the list of what can be discarded into the held process's memory."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        tracee = Tracee(pid)
    except OSError:
        return
    os.write(told, b"1")
    while tracee.next_call().arguments[1] != ranges:
        tracee.proceed()
    listed = []
    for part in mappings.of_file(pid, _NAME):
        start = part.start
        for page in mappings.own_pages(pid, part.start, part.end):
            own = os.pread(memory, mappings.PAGE, page)
            if own != os.pread(_heap, mappings.PAGE, part.offset + page - part.start):
                if page > start:
                    listed.append(_IOVEC.pack(start, page - start))
                start = page + mappings.PAGE
        if part.end > start:
            listed.append(_IOVEC.pack(start, part.end - start))
    os.pwrite(memory, b"".join(listed[: mappings.LISTED]), ranges)
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
