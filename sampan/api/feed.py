"""Events on their way to many clients: encoded once, and written as they are published."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import msgspec
from aiohttp import HttpVersion11, web

from sampan.engine.events import QUEUE, Event

FULL = 64 << 10
"""Bytes on their way to a client from which on its events are kept until it has read some."""


class Encoder:
    """The latest event's line, as it is and as a chunk: all feeds write the same."""

    def __init__(self) -> None:
        self._event: Event | None = None
        self._line = b""
        self._chunk = b""

    def line(self, event: Event) -> bytes:
        self._encode(event)
        return self._line

    def chunk(self, event: Event) -> bytes:
        """The line as a chunk of HTTP's chunked encoding."""
        self._encode(event)
        return self._chunk

    def _encode(self, event: Event) -> None:
        if event is not self._event:
            self._event = event
            self._line = msgspec.json.encode(event) + b"\n"
            self._chunk = b"%x\r\n%b\r\n" % (len(self._line), self._line)


class Feed:
    """The events of one client, whose answer has begun.

    A client that does not read loses its oldest events rather than holding the daemon's memory.
    """

    def __init__(self, request: web.Request, answer: web.StreamResponse, encoder: Encoder) -> None:
        assert request.transport is not None
        self._transport = request.transport
        self._answer = answer
        self._encode = encoder.chunk if request.version >= HttpVersion11 else encoder.line
        self._kept: deque[Event] = deque(maxlen=QUEUE)
        self._wake = asyncio.Event()
        self._encoder = encoder

    def take(self, event: Event) -> None:
        """Write an event, or keep it while the client is slow."""
        if self._kept or self._transport.get_write_buffer_size() > FULL:
            self._kept.append(event)
            self._wake.set()
        elif not self._transport.is_closing():
            self._transport.write(self._encode(event))

    async def run(self, until_ns: int | None) -> None:
        """Write what is kept whenever there is room; return at ``until_ns``."""
        try:
            async with asyncio.timeout(None if until_ns is None else _left(until_ns)):
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    while self._kept:
                        # This waits for the client to read.
                        await self._answer.write(self._encoder.line(self._kept.popleft()))
        except TimeoutError:
            return


def _left(until_ns: int) -> float:
    return max(0.0, (until_ns - time.time_ns()) / 1e9)
