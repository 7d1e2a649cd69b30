"""Docker's multiplexed stream: frames of an 8-byte head (stream, three zeros, length) and data."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The ``(stream, bytes)`` pieces that ``data`` completes or continues."""
        pieces: list[tuple[int, bytes]] = []
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


def demultiplex(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The pieces of all ``chunks``."""
    demultiplexer = Demultiplexer()
    for chunk in chunks:
        yield from demultiplexer.feed(chunk)
