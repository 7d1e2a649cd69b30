"""Answering with a part of a file by sendfile(2), on any event loop.

uvloop has no sendfile.  The socket's fd is duplicated, and the kernel copies in a thread (the file
may have to be read from a disk) as long as the client keeps up; the wait for a slow client is the
event loop's, so that it costs no thread.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import select
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

STALLED_SECONDS = 60
TURN_BYTES = 64 << 20
SEND_BYTES = 1 << 20
LOOPBACK_BUFFER_BYTES = 1 << 20
PATIENCE_MILLISECONDS = 10
"""How long a thread waits for room in a socket before the event loop waits instead."""
READ_BYTES = 1 << 20

_threads = ThreadPoolExecutor(16, "hub-sendfile")


async def send_file(
    request: web.Request, response: web.StreamResponse, path: Path, start: int, end: int
) -> None:
    """Send the bytes [start, end) of a file as the body of ``response``, which is prepared here.

    Raises FileNotFoundError before anything is sent, ConnectionResetError when the client goes
    away or takes nothing for a minute.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        response.content_length = end - start
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        if end > start and transport.get_extra_info("sslcontext"):
            await _copy(response, file, start, end)
        elif end > start:
            await _until_sent(transport)
            await _sendfile(transport, file, start, end)
        await response.write_eof()
    finally:
        os.close(file)


async def _until_sent(transport: asyncio.Transport) -> None:
    """Wait until the head is out of the transport's buffer: our bytes must come after it."""
    while transport.get_write_buffer_size():
        if transport.is_closing():
            raise ConnectionResetError("the client went away")
        await asyncio.sleep(0)


async def _sendfile(transport: asyncio.Transport, file: int, start: int, end: int) -> None:
    loop = asyncio.get_running_loop()
    connection = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    try:
        if _is_loopback(connection):
            # A large window there only drives the data out of the processor's cache between the
            # sender and the receiver; on a network the kernel finds the right size itself.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOOPBACK_BUFFER_BYTES)
        while start < end:
            if transport.is_closing():
                raise ConnectionResetError("the client went away")
            sent = await loop.run_in_executor(
                _threads, _fill, connection.fileno(), file, start, end
            )
            start += sent
            if start < end:
                await asyncio.wait_for(_writable(loop, connection.fileno()), STALLED_SECONDS)
    except TimeoutError:
        transport.abort()
        raise ConnectionResetError("the client takes nothing") from None
    except OSError as exc:
        transport.abort()
        raise ConnectionResetError("the client went away") from exc
    finally:
        connection.close()


def _is_loopback(connection: socket.socket) -> bool:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    return ipaddress.ip_address(connection.getpeername()[0].partition("%")[0]).is_loopback


def _fill(connection: int, file: int, start: int, end: int) -> int:
    """Send until the client is slower than PATIENCE; returns the number of bytes."""
    position = start
    limit = min(end, start + TURN_BYTES)
    room = select.poll()
    room.register(connection, select.POLLOUT)
    while position < limit:
        try:
            sent = os.sendfile(connection, file, position, min(limit - position, SEND_BYTES))
        except BlockingIOError:
            if room.poll(PATIENCE_MILLISECONDS):
                continue
            break
        if not sent:
            raise OSError("the file is shorter than it should be")
        position += sent
    return position - start


async def _writable(loop: asyncio.AbstractEventLoop, connection: int) -> None:
    ready = loop.create_future()
    loop.add_writer(connection, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_writer(connection)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _copy(response: web.StreamResponse, file: int, start: int, end: int) -> None:
    """For TLS, where the bytes must pass through the process."""
    read: Callable[..., bytes] = os.pread
    loop = asyncio.get_running_loop()
    while start < end:
        data = await loop.run_in_executor(_threads, read, file, min(READ_BYTES, end - start), start)
        if not data:
            raise ConnectionResetError("the file is shorter than it should be")
        await response.write(data)
        start += len(data)


async def send_stream(
    request: web.Request, response: web.StreamResponse, chunks: AsyncIterator[bytes], length: int
) -> None:
    """Send ``chunks``, ``length`` bytes together, as the body of ``response``."""
    response.content_length = length
    await response.prepare(request)
    async for data in chunks:
        await response.write(data)
    await response.write_eof()
