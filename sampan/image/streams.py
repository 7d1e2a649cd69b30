"""Raw streams that are read by their ``read`` alone."""

from __future__ import annotations

import io
from typing import BinaryIO


class Readable(io.RawIOBase):
    """A subclass says how it is read by ``read(size)``; ``readinto``, and so buffering, follow."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view)) or b""
        view[: len(data)] = data
        return len(data)


class Wrapped(Readable):
    """A stream over another one, which it closes with itself."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
