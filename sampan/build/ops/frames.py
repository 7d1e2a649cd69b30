"""Docker's multiplexed output: an 8-byte header (stream, length) before each chunk."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Literal

Stream = Literal["stdout", "stderr"]


async def read_frames(sock: socket.socket, on_output: Callable[[Stream, bytes], None]) -> None:
    """Read Docker's multiplexed frames until the end of the stream."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    buffer = bytearray()
    receive: Callable[[socket.socket, int], Awaitable[bytes]] = loop.sock_recv
    while data := await receive(sock, 1 << 16):
        buffer += data
        start = 0
        while len(buffer) - start >= 8:
            length = int.from_bytes(buffer[start + 4 : start + 8], "big")
            if len(buffer) - start - 8 < length:
                break
            stream: Stream = "stderr" if buffer[start] == 2 else "stdout"
            on_output(stream, bytes(buffer[start + 8 : start + 8 + length]))
            start += 8 + length
        del buffer[:start]
