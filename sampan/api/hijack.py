"""Taking a client's connection away from HTTP, for streams in both directions.

The connection's socket is duplicated and the server's transport closed, without ``shutdown(2)``:
the client notices nothing, and the descriptor can go to another process.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from dataclasses import dataclass

from aiohttp import web

from sampan.api import streams
from sampan.errors import Unsupported

HEAD_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Connection:
    """A client's socket (ours to close), and what the client sent beyond its request."""

    fd: int
    initial: bytes


class Done(web.StreamResponse):
    """What a handler returns after it has taken the connection: nothing more is written."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """The head has been written already."""

    async def write_eof(self, data: bytes = b"") -> None:
        """The stream belongs to somebody else."""


class _Released(asyncio.Protocol):
    """Stands in for the HTTP protocol while the transport closes, and tells it afterwards."""

    def __init__(self, http: asyncio.Protocol) -> None:
        self._http = http
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, error: Exception | None) -> None:
        self._http.connection_lost(error)


def wants_upgrade(request: web.Request) -> bool:
    """Whether the client asked for a change of protocol, as Docker's clients do."""
    return "upgrade" in request.headers.get("Connection", "").lower()


def take(request: web.Request, content_type: str = streams.RAW) -> Connection:
    """Answer the head and take the connection over.  The request's body must have been read.

    Raises Unsupported for a connection whose socket does not carry the plain bytes (TLS).
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone away")
    if transport.get_extra_info("ssl_object") is not None:
        raise Unsupported("streams over TLS are not supported by this engine yet")
    transport.pause_reading()
    http = request.protocol
    # What followed an upgrade request is kept there by aiohttp; nobody else may parse it.
    initial = bytes(http._message_tail)
    http._message_tail = b""
    fd = os.dup(transport.get_extra_info("socket").fileno())
    try:
        _send(fd, _head(request, content_type))
    except BaseException:
        os.close(fd)
        raise
    stand_in = _Released(http)
    transport.set_protocol(stand_in)
    http.force_close()
    return Connection(fd, initial + stand_in.received)


def _head(request: web.Request, content_type: str) -> bytes:
    if wants_upgrade(request):
        upgrade = request.headers.get("Upgrade", "tcp")
        return (
            f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\n"
            f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        ).encode("latin-1")
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode("latin-1")


def _send(fd: int, data: bytes) -> None:
    """Write a few hundred bytes to a socket whose buffer is empty; so this hardly ever waits."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            if not poll.poll(HEAD_SECONDS * 1000):
                raise ConnectionResetError("the client does not read") from None


async def send(fd: int, data: bytes) -> None:
    """Write to a taken connection without blocking the loop; a client that is gone is no error."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_sendall(sock, data)
        except ConnectionError:
            return
