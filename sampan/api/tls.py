"""TLS ended at the edge: behind it a connection is a socket that carries the plain bytes.

The event loop's own TLS gives no socket to pass on, and closes both directions when a client ends
one, as docker's clients do at the end of standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

log = logging.getLogger("sampan.api")

CHUNK = 64 << 10
HANDSHAKE_SECONDS = 10.0


class Terminator:
    """Accepts TLS connections and hands their plain ends to a protocol factory."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        serve: Callable[[], asyncio.Protocol],
    ) -> None:
        self._listener = listener
        self._context = context
        self._serve = serve
        self._connections: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Stop accepting, and drop all connections."""
        self._accepting.cancel()
        self._listener.close()
        for connection in self._connections:
            connection.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(self._listener)
            except OSError as error:
                # No descriptors are left, say: others may end soon.
                log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(0.1)
                continue
            task = asyncio.create_task(self._connection(client, str(address)))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _connection(self, client: socket.socket, address: str) -> None:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client:
            secure = _Secure(client, self._context)
            try:
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    await secure.handshake()
            except (OSError, ssl.SSLError, TimeoutError) as error:
                log.info("no TLS with %s: %s", address, error or "it took too long")
                return
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.setblocking(False)
            with ours:
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(self._serve, theirs)
                await _carry(secure, ours)


async def _carry(secure: _Secure, plain: socket.socket) -> None:
    """Carry bytes both ways until both directions have ended, or the client has gone."""
    loop = asyncio.get_running_loop()

    async def up() -> None:
        try:
            while data := await secure.receive():
                await loop.sock_sendall(plain, data)
        finally:
            with contextlib.suppress(OSError):
                plain.shutdown(socket.SHUT_WR)

    async def down() -> None:
        while data := await loop.sock_recv(plain, CHUNK):
            await secure.send(data)
        await secure.end()

    sending, receiving = asyncio.create_task(down()), asyncio.create_task(up())
    try:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        # A client that has ended its direction properly still reads the other one.
        if not sending.done() and receiving.exception() is None:
            await asyncio.wait({sending})
    finally:
        for task in (sending, receiving):
            task.cancel()
        for outcome in await asyncio.gather(sending, receiving, return_exceptions=True):
            if isinstance(outcome, OSError):
                log.debug("a TLS client has gone away: %s", outcome)


class _Secure:
    """One TLS connection over a socket; each direction ends by itself."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._flushing = asyncio.Lock()

    async def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return await self._flush()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    raise ConnectionResetError("the client closed the connection") from None
            except ssl.SSLError:
                # The alert tells the client why.
                await self._flush()
                raise

    async def receive(self) -> bytes:
        """Some bytes; none at the end of the client's direction."""
        while True:
            try:
                data = self._tls.read(CHUNK)
                await self._flush()
                return data
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    raise ConnectionResetError("the client closed the connection") from None
            except ssl.SSLZeroReturnError:
                return b""

    async def send(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def end(self) -> None:
        """End our direction."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()

    async def _fill(self) -> bool:
        data = await asyncio.get_running_loop().sock_recv(self._sock, CHUNK)
        self._incoming.write(data)
        return bool(data)

    async def _flush(self) -> None:
        """Send what is encrypted, in order though both directions may cause it."""
        async with self._flushing:
            if data := self._outgoing.read():
                await asyncio.get_running_loop().sock_sendall(self._sock, data)
