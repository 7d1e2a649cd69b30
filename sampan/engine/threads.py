"""Streams between the event loop and the threads that do blocking work."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import BinaryIO, cast


async def pump(source: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The items of a blocking generator, each made in a thread when it is wanted.

    The generator is closed when the consumer stops early.
    """
    try:
        while (item := await asyncio.to_thread(next, source, None)) is not None:
            yield item
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            await asyncio.shield(asyncio.to_thread(close))


class _Reader(io.RawIOBase):
    """Reads, in a thread, what an asynchronous iterator yields on the loop."""

    def __init__(self, source: AsyncIterable[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._source = aiter(source)
        self._loop = loop
        self._buffer = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if not self._buffer:
            self._buffer = memoryview(self._next())
        data = bytes(self._buffer[:size])
        self._buffer = self._buffer[size:]
        return data

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _next(self) -> bytes:
        async def step() -> bytes:
            return await anext(self._source, b"")

        return asyncio.run_coroutine_threadsafe(step(), self._loop).result()


def reader(source: AsyncIterable[bytes]) -> BinaryIO:
    """A file object for a thread, over an iterator of this event loop.  Call it on the loop."""
    return cast(BinaryIO, _Reader(source, asyncio.get_running_loop()))
