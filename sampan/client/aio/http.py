"""HTTP/1.1 on asyncio's streams, as :mod:`sampan.client.http` is on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from types import TracebackType

from sampan import __version__
from sampan.client import dial
from sampan.client.failures import ConnectionFailed
from sampan.client.hosts import Host
from sampan.client.http import CHUNK, HEAD_LIMIT

Body = bytes | Iterable[bytes] | AsyncIterable[bytes]

_CLOSED = "the daemon closed the connection before its answer was complete"


async def connect(host: Host, timeout: float | None) -> Connection:
    """A connection to ``host``; each read waits at most ``timeout`` seconds.

    :raises ConnectionFailed: nothing listens there.
    """
    sock, name = await asyncio.to_thread(dial.bare, host)
    try:
        context = None
        if host.tls is not None and name:
            from sampan.client import tls

            context = tls.context(host.tls)
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname=name if context else None, limit=HEAD_LIMIT
        )
    except OSError as error:
        sock.close()
        raise dial.unreachable(host.address, error) from None
    except BaseException:
        sock.close()
        raise
    return Connection(reader, writer, timeout)


async def pieces(body: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The pieces of a body; an iterator that may block is run in a thread."""
    if isinstance(body, AsyncIterable):
        async for part in body:
            yield part
        return
    iterator = iter(body)
    while True:
        found = await asyncio.to_thread(next, iterator, None)
        if found is None:
            return
        yield found


class Connection:
    """One connection, one request at a time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float | None
    ) -> None:
        self.reader, self.writer = reader, writer
        self._timeout = timeout
        self.reusable = True

    def close(self) -> None:
        self.reusable = False
        self.writer.close()

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: Body | None = None,
    ) -> Response:
        """Send one request and read the head of its answer, which may come before its body has
        been sent."""
        lines = [f"{method} {target} HTTP/1.1", "Host: api", f"User-Agent: sampan/{__version__}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        streamed = body is not None and not isinstance(body, bytes)
        if streamed:
            lines.append("Transfer-Encoding: chunked")
        elif body or method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(body) if isinstance(body, bytes) else 0}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        self.writer.write(head + body if isinstance(body, bytes) else head)
        if body is None or isinstance(body, bytes):
            return await self._answer(method)
        sending = asyncio.create_task(self._send(body))
        try:
            return await self._answer(method, sending)
        except BaseException:
            sending.cancel()
            raise

    async def _send(self, body: Iterable[bytes] | AsyncIterable[bytes]) -> None:
        try:
            async for part in pieces(body):
                if part:
                    self.writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                    await self.writer.drain()
            self.writer.write(b"0\r\n\r\n")
            await self.writer.drain()
        except ConnectionError:
            # The daemon has refused early; its answer, if any, is already on the way.
            self.reusable = False

    async def _answer(self, method: str, sending: asyncio.Task[None] | None = None) -> Response:
        reading = asyncio.ensure_future(self._head())
        try:
            if sending is not None:
                # A body that cannot be produced must not leave us waiting for an answer to it.
                await asyncio.wait((reading, sending), return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    await sending
            head = await reading
        finally:
            reading.cancel()
        status_line, *lines = head.decode("latin-1").split("\r\n")
        parts = status_line.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdecimal():
            raise ConnectionFailed("what answers there does not speak HTTP")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        status = int(parts[1])
        if status == 100:
            return await self._answer(method, sending)
        if headers.get("connection", "").lower() == "close" or parts[0] == "HTTP/1.0":
            self.reusable = False
        return Response(self, method, status, headers, sending)

    async def _head(self) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return (await self.reader.readuntil(b"\r\n\r\n"))[:-4]
        except TimeoutError:
            raise ConnectionFailed("the daemon did not answer in time") from None
        except asyncio.LimitOverrunError:
            raise ConnectionFailed("the daemon's answer has a head without an end") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            self.reusable = False
            raise ConnectionFailed(_CLOSED) from None

    async def line(self) -> bytes:
        """A line of the chunked coding, without its end."""
        try:
            async with asyncio.timeout(self._timeout):
                return (await self.reader.readuntil(b"\r\n"))[:-2]
        except TimeoutError:
            raise ConnectionFailed("the daemon did not answer in time") from None
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            raise ConnectionFailed(_CLOSED) from None

    async def some(self, limit: int) -> bytes:
        """At least one byte and at most ``limit``."""
        try:
            async with asyncio.timeout(self._timeout):
                data = await self.reader.read(limit)
        except TimeoutError:
            raise ConnectionFailed("the daemon did not answer in time") from None
        except ConnectionError:
            data = b""
        if not data:
            raise ConnectionFailed(_CLOSED)
        return data


class Response:
    """One answer: its head, and its body as a whole or in pieces.

    An asynchronous context manager, which closes a connection whose body was not read to its end.
    """

    def __init__(
        self,
        connection: Connection,
        method: str,
        status: int,
        headers: dict[str, str],
        sending: asyncio.Task[None] | None,
    ) -> None:
        self.connection, self._method = connection, method
        self.status, self.headers = status, headers
        self._sending = sending
        self.complete = False

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives; ends with the body."""
        source = self.connection
        if self._method == "HEAD" or self.status in (204, 304):
            pass
        elif self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await source.line()).split(b";")[0], 16):
                while size:
                    data = await source.some(min(size, CHUNK))
                    size -= len(data)
                    yield data
                await source.line()
            while await source.line():
                pass
        elif "content-length" in self.headers:
            left = int(self.headers["content-length"])
            while left:
                data = await source.some(min(left, CHUNK))
                left -= len(data)
                yield data
        else:
            source.reusable = False
            while data := await source.reader.read(CHUNK):
                yield data
        if self._sending is not None:
            await self._sending
        self.complete = True

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def raw(self) -> AsyncIterator[bytes]:
        """The raw stream behind the head, to its end."""
        self.connection.reusable = False
        while data := await self.connection.reader.read(CHUNK):
            yield data

    def close(self) -> None:
        """Give up the rest of the body."""
        if self._sending is not None:
            self._sending.cancel()
        self.connection.close()
