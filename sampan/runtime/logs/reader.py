"""Read back what a keeper logged, with following.

The reader knows a file by its inode, so that rotation (by rename) under its hands neither repeats
nor loses a line as long as the file it reads is kept.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable

from sampan.errors import Conflict
from sampan.runtime.logs.decode import (
    Decoder,
    Entry,
    JsonDecoder,
    JsonTail,
    LocalDecoder,
    LocalTail,
    WholeFrames,
    WholeRecords,
)
from sampan.runtime.logs.watch import Watch
from sampan.runtime.types import LogConfig

_BLOCK = 1 << 20


async def read(
    config: LogConfig,
    *,
    follow: bool = False,
    since: int = 0,
    until: int = 0,
    tail: int | None = None,
    stdout: bool = True,
    stderr: bool = True,
    running: Callable[[], bool] = lambda: False,
    lines: bool = True,
) -> AsyncIterator[Entry]:
    """Yield the entries in order; with ``follow`` go on as long as ``running()``.

    Without ``lines`` an entry may hold many lines, or parts of them, where that is faster.

    ``since`` and ``until`` are nanoseconds since the epoch (0: no bound), ``tail`` the number of
    last entries to begin with (None: all).  Raises Conflict for a driver that cannot be read.
    """
    if config.driver == "none":
        raise Conflict("configured logging driver does not support reading")
    streams = {number for number, wanted in ((1, stdout), (2, stderr)) if wanted}

    def chosen(entry: Entry) -> bool:
        return (
            entry.stream in streams and entry.time >= since and (not until or entry.time <= until)
        )

    cursor = _Cursor(config, lines or tail is not None or bool(follow and config.driver != "local"))
    try:
        if tail is not None:
            last: deque[Entry] = deque(maxlen=tail)
            cursor.seek_tail(tail if len(streams) == 2 and not (since or until) else None)
            while batch := cursor.next_batch():
                last.extend(entry for entry in batch if chosen(entry))
                await asyncio.sleep(0)
            if not follow:
                last.extend(entry for entry in cursor.finish() if chosen(entry))
            for entry in last:
                yield entry
        if follow:
            cursor.lift_bounds()
        while batch := cursor.next_batch():
            for entry in batch:
                if until and entry.time > until:
                    return
                if chosen(entry):
                    yield entry
            await asyncio.sleep(0)
        if follow:
            async for entry in _follow(cursor, running, until):
                if chosen(entry):
                    yield entry
        for entry in cursor.finish():
            if chosen(entry):
                yield entry
    finally:
        cursor.close()


async def _follow(cursor: _Cursor, running: Callable[[], bool], until: int) -> AsyncIterator[Entry]:
    """New entries as they come.  The keeper's closing of the file is an event, its end is not
    one of the file: then it is asked for at short intervals."""
    watch = Watch()
    try:
        while True:
            cursor.watch(watch)
            alive = running()
            while batch := cursor.next_batch():
                for entry in batch:
                    if until and entry.time > until:
                        return
                    yield entry
            if not alive:
                return
            await watch.wait()
    finally:
        watch.close()


class _Cursor:
    """A position in the sequence of log files."""

    def __init__(self, config: LogConfig, lines: bool) -> None:
        self._config = config
        self._local = config.driver == "local"
        self._decoder: Decoder
        if self._local:
            self._decoder = LocalDecoder() if lines else WholeFrames()
        else:
            self._decoder = JsonDecoder() if lines else WholeRecords()
        self._fd = -1
        self._offset = 0
        # What there is now, inodes to sizes: without an end a reader would never catch up with a
        # container that writes without one.
        self._bounds: dict[int, int] | None = None
        self._bounds = self._sizes()
        self._last = next(iter(self._bounds), 0)
        paths = self._paths()
        if paths:
            self._open(paths[0])

    def _paths(self) -> list[str]:
        """The files that exist, oldest first."""
        return [name for name in reversed(self._names()) if os.path.exists(name)]

    def _names(self) -> list[str]:
        """The names that files may have, newest first."""
        path = self._config.path
        return [path, *(f"{path}.{number}" for number in range(1, self._config.max_file))]

    def _open(self, path: str, inode: int = 0) -> bool:
        """Go to the beginning of a file, if it is there (and is the one expected)."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        found = os.fstat(fd).st_ino
        if (inode and found != inode) or (self._bounds is not None and found not in self._bounds):
            os.close(fd)
            return False
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._offset = fd, 0
        return True

    def _sizes(self) -> dict[int, int]:
        """The inodes and sizes of the files, newest first."""
        found: dict[int, int] = {}
        for path in self._names():
            try:
                info = os.stat(path)
            except FileNotFoundError:
                continue
            found.setdefault(info.st_ino, info.st_size)
        return found

    def lift_bounds(self) -> None:
        """Go on to what has been written since the beginning."""
        self._bounds = None

    def _bound(self) -> int | None:
        """Where reading of the current file ends, if it does."""
        return None if self._bounds is None else self._bounds.get(os.fstat(self._fd).st_ino)

    def seek_tail(self, wanted: int | None) -> None:
        """Go to where the last ``wanted`` lines begin (None: stay at the beginning)."""
        if wanted is None:
            return
        tail: LocalTail | JsonTail = LocalTail(wanted) if self._local else JsonTail(wanted)
        seen: set[int] = set()
        for path in self._names():
            if not self._open(path):
                continue
            found_file = os.fstat(self._fd)
            size = min(found_file.st_size, (self._bounds or {}).get(found_file.st_ino, sys.maxsize))
            if not size or found_file.st_ino in seen:
                continue  # a rotation has moved it on meanwhile
            seen.add(found_file.st_ino)
            with mmap.mmap(self._fd, size, prot=mmap.PROT_READ) as content:
                view = memoryview(content)
                try:
                    found = tail.search(view, size)
                finally:
                    view.release()
            if found is not None:
                self._offset = found
                return

    def next_batch(self) -> list[Entry]:
        """Some more entries; empty when everything written so far has been read."""
        entries: list[Entry] = []
        while not entries:
            if self._fd < 0:
                paths = self._paths()
                if not paths or not self._open(paths[0]):
                    return []
            if self._decode_block(entries):
                continue
            if not self._next_file():
                return entries
        return entries

    def _decode_block(self, entries: list[Entry]) -> bool:
        """Decode the next block; False at the end of what is complete."""
        size, bound = _BLOCK, self._bound()
        while True:
            if bound is not None:
                size = min(size, bound - self._offset)
                if size <= 0:
                    return False
            data = os.pread(self._fd, size, self._offset)
            if not data:
                return False
            used = self._decoder.decode(data, entries)
            self._offset += used
            if used or len(data) < size or (bound is not None and self._offset + size >= bound):
                return used > 0
            size *= 2  # one record is larger than the block

    def _next_file(self) -> bool:
        """Go on to the file that followed ours, if ours has been rotated away."""
        own = os.fstat(self._fd).st_ino
        if self._bounds is not None and own == self._last:
            return False
        while True:
            newer = self._files_after(own)
            if not newer:
                return False
            # Ours does not grow any more, now that there is a newer one.
            if self._bounds is None:
                if os.fstat(self._fd).st_size > self._offset and self._grew():
                    return True
            elif newer[-1][1] not in self._bounds:
                return False
            path, inode = newer[-1]
            if self._open(path, inode):
                return True
            # Another rotation has come between: look again.

    def _files_after(self, own: int) -> list[tuple[str, int]]:
        """(path, inode) of the files newer than ours, newest first; all of them if ours is gone.

        Rotation moves files away from where we look first, so none is missed; one may be met
        twice.
        """
        found: dict[int, str] = {}
        for path in self._names():
            try:
                inode = os.stat(path).st_ino
            except FileNotFoundError:
                continue
            if inode == own:
                break
            found[inode] = path
        return [(path, inode) for inode, path in found.items()]

    def _grew(self) -> bool:
        """Whether a complete record has come since the last look."""
        probe: list[Entry] = []
        decoder: Decoder = LocalDecoder() if self._local else JsonDecoder()
        return decoder.decode(os.pread(self._fd, _BLOCK, self._offset), probe) > 0

    def watch(self, watch: Watch) -> None:
        if self._fd >= 0:
            watch.move_to(f"/proc/self/fd/{self._fd}")
        else:
            watch.move_to(os.path.dirname(self._config.path))

    def finish(self) -> list[Entry]:
        entries: list[Entry] = []
        self._decoder.finish(entries)
        return entries

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
