"""Answering with a part of a file without reading it into the process, on any event loop.

uvloop has no sendfile.  The socket's fd is duplicated, and the kernel copies in a thread (the file
may have to be read from a disk) as long as the client keeps up; the wait for a slow client is the
event loop's, so that it costs no thread.

To another machine the kernel sends the file's own pages, by sendfile(2).  On loopback the same
pages would reach the receiver uncopied and cold, and its one copy out of main memory bounds the
speed; there the file is mapped, window by window, and sent from the mapping: the sender copies
into small warm buffers, the receiver out of them, each on its own processor (twice the speed).
"""

from __future__ import annotations

import asyncio
import ipaddress
import mmap
import os
import select
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from sampan.hub.storage import BlobStorage

STALLED_SECONDS = 60
TURN_BYTES = 64 << 20
SEND_BYTES = 1 << 20
WINDOW_BYTES = 2 << 20
LOOPBACK_BUFFER_BYTES = 128 << 10
"""What may be under way on loopback: small enough to stay in the processors' caches."""
PATIENCE_MILLISECONDS = 10
"""How long a thread waits for room in a socket before the event loop waits instead."""
READ_BYTES = 1 << 20

_threads = ThreadPoolExecutor(16, "hub-sendfile")


async def send_blob(
    request: web.Request,
    response: web.StreamResponse,
    storage: BlobStorage,
    digest: str,
    start: int,
    end: int,
) -> None:
    """Send the bytes [start, end) of a blob as the body of ``response``, wherever they are.

    Raises FileNotFoundError before anything is sent, ConnectionResetError as :func:`send_file`.
    """
    if path := storage.local_path(digest):
        await send_file(request, response, path, start, end)
    else:
        await send_stream(request, response, storage.read(digest, start, end), end - start)


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
        fill = _fill
        if _is_loopback(connection):
            fill = _fill_mapped
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOOPBACK_BUFFER_BYTES)
        while start < end:
            if transport.is_closing():
                raise ConnectionResetError("the client went away")
            sent = await loop.run_in_executor(_threads, fill, connection, file, start, end)
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


def _fill(connection: socket.socket, file: int, start: int, end: int) -> int:
    """Send until the client is slower than PATIENCE; returns the number of bytes."""

    def send(position: int, count: int) -> int:
        sent = os.sendfile(connection.fileno(), file, position, count)
        if not sent:
            raise OSError("the file is shorter than it should be")
        return sent

    return _push(connection, start, min(end, start + TURN_BYTES), send)


def _fill_mapped(connection: socket.socket, file: int, start: int, end: int) -> int:
    """As :func:`_fill`, from mappings of the file."""
    position = start
    limit = min(end, start + TURN_BYTES)
    while position < limit:
        base = position - position % mmap.ALLOCATIONGRANULARITY
        length = min(limit - base, WINDOW_BYTES)
        sent = _push_window(connection, file, base, length, position - base)
        position += sent
        if position < base + length:
            break
    return position - start


def _push_window(
    connection: socket.socket, file: int, base: int, length: int, position: int
) -> int:
    """Send ``length`` bytes of the file from ``base`` on, but for the first ``position``."""
    try:
        window = mmap.mmap(file, length, prot=mmap.PROT_READ, offset=base)
    except ValueError as exc:
        raise OSError("the file is shorter than it should be") from exc
    with window, memoryview(window) as view:

        def send(position: int, count: int) -> int:
            # Only the kernel reads the pages: a disk that fails is an error, not a signal.
            return connection.send(view[position : position + count])

        return _push(connection, position, length, send)


def _push(
    connection: socket.socket, position: int, limit: int, send: Callable[[int, int], int]
) -> int:
    """Call ``send(position, count)`` until all is sent, or the client took nothing for PATIENCE.

    Returns the number of bytes sent.
    """
    start = position
    room = select.poll()
    room.register(connection, select.POLLOUT)
    while position < limit:
        try:
            position += send(position, min(limit - position, SEND_BYTES))
        except BlockingIOError:
            if not room.poll(PATIENCE_MILLISECONDS):
                break
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
