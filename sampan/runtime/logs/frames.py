"""The ``local`` log file: frames of output as it was read, no work per line.

A frame is a 16-byte header (length of the data, stream, flags, time in nanoseconds), the data, and
the length again, so that a file can be walked from its end.  Integers are little-endian.  A frame
holds whole reads of a pipe; lines begin and end anywhere in it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEADER = struct.Struct("<IBBHQ")
TRAILER = struct.Struct("<I")
OVERHEAD = HEADER.size + TRAILER.size
MAX_DATA = 1 << 20


class Frame(NamedTuple):
    """Where a frame's data lies in the file, and what it is."""

    time: int
    stream: int
    start: int
    end: int

    @property
    def next(self) -> int:
        return self.end + TRAILER.size


def parse(buffer: bytes | memoryview, at: int, end: int) -> Frame | None:
    """The frame at offset ``at``, or None if it is not complete (yet) or not a frame."""
    if end - at < OVERHEAD:
        return None
    length, stream, _, _, time = HEADER.unpack_from(buffer, at)
    start = at + HEADER.size
    if length > MAX_DATA or stream not in (1, 2) or start + length + TRAILER.size > end:
        return None
    return Frame(time, stream, start, start + length)


def forward(buffer: bytes | memoryview, at: int, end: int) -> Iterator[Frame]:
    """The frames from ``at`` on; stops at the first incomplete one."""
    while (frame := parse(buffer, at, end)) is not None:
        yield frame
        at = frame.next


def backward(buffer: bytes | memoryview, end: int) -> Iterator[Frame]:
    """The frames before ``end``, last first; ``end`` must be the end of a frame."""
    while end >= OVERHEAD:
        (length,) = TRAILER.unpack_from(buffer, end - TRAILER.size)
        at = end - OVERHEAD - length
        frame = parse(buffer, at, end) if at >= 0 else None
        if frame is None or frame.next != end:
            return
        yield frame
        end = at
