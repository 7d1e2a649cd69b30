"""A stream of the event loop, read as a file by a thread."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, TypeVar, cast

from sampan.image.streams import Readable

T = TypeVar("T")

_LIMIT = 8 << 20
_PACED = ThreadPoolExecutor(64, "stream")
"""Threads whose pace is a client's: a slow one must not hold those that the daemon works with."""


class _Bridge(Readable):
    """The thread's side; the loop's side is :meth:`feed`.  Holds at most eight megabytes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._room.set()
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._failure: BaseException | None = None

    async def feed(self, stream: AsyncIterable[bytes]) -> None:
        try:
            async for chunk in stream:
                with self._changed:
                    self._chunks.append(chunk)
                    self._held += len(chunk)
                    if self._held > _LIMIT:
                        self._room.clear()
                    self._changed.notify()
                await self._room.wait()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        with self._changed:
            while not self._chunks and not self._ended:
                self._changed.wait()
            if not self._chunks:
                if self._failure is not None:
                    raise ConnectionAbortedError("the stream broke off") from self._failure
                return b""
            chunk = self._chunks.popleft()
            if 0 < size < len(chunk):
                self._chunks.appendleft(chunk[size:])
                chunk = chunk[:size]
            was_full = self._held > _LIMIT
            self._held -= len(chunk)
            if was_full and self._held <= _LIMIT:
                self._loop.call_soon_threadsafe(self._room.set)
            return chunk


async def in_thread(stream: AsyncIterable[bytes], work: Callable[[BinaryIO], T]) -> T:
    """Run ``work`` in a thread on the stream; when the stream fails, so does the work's read, and
    the stream's own error is raised."""
    bridge = _Bridge()
    feeding = asyncio.create_task(bridge.feed(stream))
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    working = loop.run_in_executor(_PACED, context.run, work, cast(BinaryIO, bridge))
    try:
        await asyncio.wait((feeding, working), return_when=asyncio.FIRST_COMPLETED)
        if feeding.done() and feeding.exception() is not None:
            await asyncio.wait((working,))
            working.exception()
            feeding.result()
        return await asyncio.shield(working)
    finally:
        if not feeding.done():
            feeding.cancel()
            await asyncio.wait((feeding,))
        if not working.done():
            await asyncio.wait((working,))
