"""Read back what a keeper logged, with following.

The reader knows a file by its inode, so that rotation (by rename) under its hands neither repeats
nor loses a line as long as the file it reads is kept.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from sampan.errors import Conflict
from sampan.runtime.logs import files
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
from sampan.runtime.logs.files import LogFile
from sampan.runtime.logs.watch import Watch
from sampan.runtime.types import LogConfig

_BLOCK = 1 << 20
_LATE = 100_000_000


async def read(
    config: LogConfig,
    *,
    follow: bool = False,
    since: int = 0,
    until: int = 0,
    tail: int | None = None,
    after: int = 0,
    stdout: bool = True,
    stderr: bool = True,
    running: Callable[[], bool] = lambda: False,
    lines: bool = True,
) -> AsyncIterator[Entry]:
    """Yield the entries in order; with ``follow`` go on as long as ``running()``, and until
    ``until`` has passed.

    Without ``lines`` an entry may hold many lines, or parts of them, where that is faster.

    ``since`` and ``until`` are nanoseconds since the epoch (0: no bound), ``tail`` the number of
    last entries to begin with (None: all).

    ``after`` is the time of an entry that was read before (0: of none): begin with that one, or
    with all there are if it has been rotated away; ``since`` and ``tail`` do not count then.  It
    is used as a name and not compared: the clock may have been set back since.

    Raises Conflict for a driver that cannot be read.
    """
    if config.driver == "none":
        raise Conflict("configured logging driver does not support reading")
    streams = {number for number, wanted in ((1, stdout), (2, stderr)) if wanted}
    if after:
        since, tail = 0, None

    def chosen(entry: Entry) -> bool:
        return (
            entry.stream in streams and entry.time >= since and (not until or entry.time <= until)
        )

    lines = lines or tail is not None or bool(follow and config.driver != "local")
    cursor = _Cursor(config, lines)
    try:
        batch: list[Entry] = []
        if after and not (batch := await _find(cursor, after, streams)):
            cursor.close()
            cursor = _Cursor(config, lines)
        if tail is not None:
            last: deque[Entry] = deque(maxlen=tail)
            await cursor.seek_tail(tail if len(streams) == 2 and not (since or until) else None)
            while batch := await cursor.next_batch():
                last.extend(entry for entry in batch if chosen(entry))
                await asyncio.sleep(0)
            if not follow:
                last.extend(entry for entry in cursor.finish() if chosen(entry))
            for entry in last:
                yield entry
        if follow:
            cursor.lift_bounds()
        began = time.time_ns()
        while batch or (batch := await cursor.next_batch()):
            for entry in batch:
                # After a later one an earlier one may come: the clock may have been set back.
                if follow and until and entry.time > until:
                    return
                if chosen(entry):
                    yield entry
            batch = []
            await asyncio.sleep(0)
        if follow:
            if since <= began:
                # What comes now is new, also when the clock is set back.
                since = 0
            async for entry in _follow(cursor, running, until):
                if chosen(entry):
                    yield entry
        for entry in cursor.finish():
            if chosen(entry):
                yield entry
    finally:
        cursor.close()


async def _find(cursor: _Cursor, time: int, streams: set[int]) -> list[Entry]:
    """Go to the first entry of this time; it and those read with it, nothing if there is none."""
    while batch := await cursor.next_batch():
        for index, entry in enumerate(batch):
            if entry.time == time and entry.stream in streams:
                return batch[index:]
        await asyncio.sleep(0)
    return []


async def _follow(cursor: _Cursor, running: Callable[[], bool], until: int) -> AsyncIterator[Entry]:
    """New entries as they come.  The keeper's closing of the file is an event, its end is not
    one of the file: then it is asked for at short intervals."""
    watch = Watch()
    try:
        while True:
            cursor.watch(watch)
            # What is stamped before the bound may be written a moment after it.
            over = until and time.time_ns() > until + _LATE
            alive = running() and not over
            while batch := await cursor.next_batch():
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
        self._file = LogFile("", 0, 0, 0)
        self._offset = 0
        self._held = -1
        # What there is now, newest first: without an end a reader would never catch up with a
        # container that writes without one.
        found = files.listing(config)
        # The newest is held, so that no later file gets its inode.
        while found and (held := files.open_file(found[0])) < 0:
            found = files.listing(config)
        if found:
            self._held = held
        self._bounds: list[LogFile] | None = found
        if found:
            self._open(found[-1])

    async def next_batch(self) -> list[Entry]:
        """Some more entries; empty when everything written so far has been read."""
        if self._config.compress:
            # A compressed file is unpacked as a whole.
            return await asyncio.to_thread(self._next_batch)
        return self._next_batch()

    async def seek_tail(self, wanted: int | None) -> None:
        """Go to where the last ``wanted`` lines begin (None: stay at the beginning)."""
        if wanted is None:
            return
        if self._config.compress:
            await asyncio.to_thread(self._seek_tail, wanted)
        else:
            self._seek_tail(wanted)

    def lift_bounds(self) -> None:
        """Go on to what has been written since the beginning."""
        self._bounds = None
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def _open(self, file: LogFile) -> bool:
        """Go to the beginning of a file, if it is still there."""
        if self._bounds is not None and self._bound_of(file) is None:
            return False
        fd = files.open_file(file)
        if fd < 0:
            return False
        self._go_to(fd, file)
        return True

    def _go_to(self, fd: int, file: LogFile) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._file, self._offset = fd, file, 0

    def _own(self) -> LogFile:
        """The file that is open, as it is now."""
        if self._file.packed:
            return self._file
        return self._file._replace(changed=files.changed(self._fd))

    def _bound_of(self, file: LogFile) -> int | None:
        """Where reading of a file ends; None if it was not there at the beginning."""
        for known in self._bounds or ():
            if known.packed == file.packed and known.is_same(file):
                return known.size
        if file.packed:
            for known in self._bounds or ():
                if not known.packed and known.inode == file.inode:
                    return known.size  # it has been compressed since
        return None

    def _seek_tail(self, wanted: int) -> None:
        tail: LocalTail | JsonTail = LocalTail(wanted) if self._local else JsonTail(wanted)
        seen: list[LogFile] = []
        for file in files.listing(self._config):
            if any(file.is_same(known) for known in seen) or not self._open(file):
                continue  # a rotation has moved it on meanwhile
            size = min(os.fstat(self._fd).st_size, self._bound_of(file) or 0)
            if not size:
                continue
            seen.append(file)
            with mmap.mmap(self._fd, size, prot=mmap.PROT_READ) as content:
                view = memoryview(content)
                try:
                    found = tail.search(view, size)
                finally:
                    view.release()
            if found is not None:
                self._offset = found
                return

    def _next_batch(self) -> list[Entry]:
        entries: list[Entry] = []
        while not entries:
            if self._fd < 0:
                found = files.listing(self._config)
                if not found or not self._open(found[-1]):
                    return []
            if self._decode_block(entries):
                continue
            if not self._next_file():
                return entries
        return entries

    def _decode_block(self, entries: list[Entry]) -> bool:
        """Decode the next block; False at the end of what is complete."""
        size = _BLOCK
        bound = None if self._bounds is None else self._bound_of(self._file)
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
        own = self._own()
        if self._bounds is not None and self._is_last(own):
            return False
        while True:
            newer = self._files_after(own)
            if not newer:
                return False
            # Ours does not grow any more, now that there is a newer one.
            if self._bounds is None:
                if os.fstat(self._fd).st_size > self._offset and self._grew():
                    return True
            elif self._bound_of(newer[-1]) is None:
                return False
            if self._go_after(own, newer[-1]):
                return True
            # Another rotation has come between: look again.
            own = self._own()

    def _go_after(self, own: LogFile, file: LogFile) -> bool:
        """Go to a file that was seen next to ours; False if it is not there any more.

        A later file may have got its name and its inode since then.  Now that both are open they
        cannot be mistaken for others: so it is the right one if it is still next to ours.
        """
        fd = files.open_file(file)
        if fd < 0:
            return False
        if not file.packed:
            file = file._replace(changed=files.changed(fd))
        newer = self._files_after(own)
        if not newer or not newer[-1].is_same(file):
            os.close(fd)
            return False
        self._go_to(fd, file)
        return True

    def _is_last(self, own: LogFile) -> bool:
        """Whether ours was the newest at the beginning."""
        newest, *older = self._bounds or [own]
        if own.packed and any(known.packed and known.is_same(own) for known in older):
            return False
        return newest.inode == own.inode

    def _files_after(self, own: LogFile) -> list[LogFile]:
        """The files newer than ours, newest first; all of them if ours is gone."""
        found: list[LogFile] = []
        for file in files.listing(self._config):
            if file.is_same(own):
                break
            found.append(file)
        return found

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
        for fd in (self._fd, self._held):
            if fd >= 0:
                os.close(fd)
        self._fd = self._held = -1
