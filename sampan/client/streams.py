"""Docker's multiplexed stream: frames of an 8-byte head (stream, three zeros, length) and data."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeVar

    Data = TypeVar("Data", bytes, memoryview)

STDIN, STDOUT, STDERR, SYSTEM = range(4)
_HEAD = 8


class Demultiplexer:
    """Feed it bytes as they arrive; it gives back the pieces of each stream in order.

    The pieces of a frame are given out as they come, so a frame of any size costs no memory.
    """

    __slots__ = ("_head", "_left", "_stream")

    def __init__(self) -> None:
        self._head = b""
        self._stream = STDOUT
        self._left = 0

    def feed(self, data: Data) -> list[tuple[int, Data]]:
        """The ``(stream, bytes)`` pieces that ``data`` completes or continues; views of ``data``
        if it is one."""
        pieces: list[tuple[int, Data]] = []
        position = 0
        while position < len(data):
            if not self._left:
                want = _HEAD - len(self._head)
                self._head += data[position : position + want]
                position += want
                if len(self._head) < _HEAD:
                    break
                self._stream = self._head[0]
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""
                continue
            part = data[position : position + self._left]
            position += len(part)
            self._left -= len(part)
            pieces.append((self._stream, part))
        return pieces


def demultiplex(chunks: Iterable[Data]) -> Iterator[tuple[int, Data]]:
    """The pieces of all ``chunks``."""
    demultiplexer = Demultiplexer()
    for chunk in chunks:
        yield from demultiplexer.feed(chunk)


class TimedFrames:
    """Frames that have the time of their data after the length, in 8 bytes: the daemon's own
    ``application/vnd.sampan.timed-stream``.  Only whole frames are given out."""

    __slots__ = ("_rest",)

    _TIMED_HEAD = 16

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """The ``(stream, nanoseconds since the epoch, bytes)`` that ``data`` completes."""
        data = self._rest + data
        frames: list[tuple[int, int, bytes]] = []
        at, size = 0, self._TIMED_HEAD
        while len(data) >= at + size:
            end = at + size + int.from_bytes(data[at + 4 : at + 8], "big")
            if len(data) < end:
                break
            time = int.from_bytes(data[at + 8 : at + 16], "big")
            frames.append((data[at], time, data[at + size : end]))
            at = end
        self._rest = data[at:]
        return frames
