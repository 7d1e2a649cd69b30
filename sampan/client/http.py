"""HTTP/1.1 as a client of the Engine API needs it: requests, chunked streams, hijacked sockets.

RFC 9112, with what the API adds: an answer may be followed by a raw two-way stream (``101`` or
``200`` with ``application/vnd.docker.raw-stream``), which :meth:`Response.hijack` hands over.
"""

from __future__ import annotations

import os
import stat

from sampan import __version__
from sampan.client.dial import would_block
from sampan.client.failures import ConnectionFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

    from sampan.client.dial import Socket

CHUNK = 64 << 10
LARGE_CHUNK = 120 << 10
FILE_CHUNK = 1 << 20
HEAD_LIMIT = 1 << 20
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:@")


def quote(text: str) -> str:
    """``text`` percent-encoded for a path segment or a query value (slashes are kept)."""
    data = text.encode("utf-8", "surrogateescape")
    if _UNRESERVED.issuperset(data):
        return text
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data)


class FileBody:
    """A regular file, from its current position to its end, as a body of known length.
    ``progress`` is told how many bytes of it were sent."""

    __slots__ = ("_file", "fd", "progress", "size", "start")

    def __init__(
        self, file: BinaryIO, progress: Callable[[int], object] = lambda sent: None
    ) -> None:
        self._file = file  # It would close itself.
        self.fd = file.fileno()
        self.start = file.tell()
        self.size = os.fstat(self.fd).st_size - self.start
        self.progress = progress

    @classmethod
    def fits(cls, file: BinaryIO) -> bool:
        """Whether ``file`` is a regular one that can be sent so."""
        try:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        except (OSError, AttributeError):
            return False

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        while data := os.pread(self.fd, min(FILE_CHUNK, self.size - done), self.start + done):
            yield data
            done += len(data)
            self.progress(done)


class Connection:
    """One socket, one request at a time."""

    __slots__ = ("_buffer", "_sock", "reusable")

    def __init__(self, sock: Socket) -> None:
        self._sock = sock
        self._buffer = b""
        self.reusable = True

    def close(self) -> None:
        self._sock.close()
        self.reusable = False

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
    ) -> Response:
        """Send one request and read the head of its answer."""
        self.send(method, target, headers, body)
        return self.answer(method)

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
    ) -> None:
        """Send one request; a body that is not bytes goes out in chunks as it is produced, or is
        a :class:`FileBody`, which the kernel sends where the connection is a plain socket."""
        lines = [f"{method} {target} HTTP/1.1", "Host: api", f"User-Agent: sampan/{__version__}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        file = body if isinstance(body, FileBody) and self._is_plain() else None
        streamed = body is not None and not isinstance(body, bytes)
        if file is not None:
            lines.append(f"Content-Length: {file.size}")
        elif streamed:
            lines.append("Transfer-Encoding: chunked")
        elif body or method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(body) if isinstance(body, bytes) else 0}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        try:
            self._sock.sendall(head + body if isinstance(body, bytes) else head)
            if file is not None:
                self._send_file(file)
            elif body is not None and not isinstance(body, bytes):
                self._send_chunks(body)
        except (BrokenPipeError, ConnectionResetError):
            # The daemon has refused early; its answer, if any, is already on the way.
            self.reusable = False

    def _is_plain(self) -> bool:
        import _socket

        return isinstance(self._sock, _socket.socket)

    def _send_chunks(self, body: Iterable[bytes]) -> None:
        before = self._sock.gettimeout()
        self._sock.settimeout(0.0)
        try:
            for part in body:
                if part:
                    self._send_chunk(b"%x\r\n%b\r\n" % (len(part), part))
            self._send_chunk(b"0\r\n\r\n")
        finally:
            self._sock.settimeout(before)

    def _send_chunk(self, data: bytes) -> None:
        view = memoryview(data)

        def some(done: int) -> int:
            return self._sock.send(view[done : done + CHUNK])

        self._pour(len(data), some)

    def _send_file(self, file: FileBody) -> None:
        sock = self._sock.fileno()

        def some(done: int) -> int:
            count = os.sendfile(sock, file.fd, file.start + done, min(FILE_CHUNK, file.size - done))
            if not count:
                raise ConnectionFailed("the file that was being sent has become shorter")
            file.progress(done + count)
            return count

        before = self._sock.gettimeout()
        self._sock.settimeout(0.0)
        try:
            self._pour(file.size, some)
        finally:
            self._sock.settimeout(before)

    def _pour(self, size: int, some: Callable[[int], int]) -> None:
        """Send ``size`` bytes by ``some``, which sends a few from an offset on, taking in what
        arrives meanwhile, lest both sides wait."""
        import select

        poller = select.poll()
        poller.register(self._sock.fileno(), select.POLLIN | select.POLLOUT)
        done = 0
        while done < size:
            for _, ready in poller.poll():
                if ready & select.POLLIN:
                    try:
                        self._fill()
                    except ConnectionFailed:
                        raise BrokenPipeError from None
                    except OSError as error:
                        if not would_block(error):
                            raise
                if ready & select.POLLOUT:
                    try:
                        done += some(done)
                    except OSError as error:
                        if not would_block(error):
                            raise
                elif not ready & select.POLLIN:
                    raise BrokenPipeError

    def answer(self, method: str = "GET") -> Response:
        """Read the head of the next answer."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise ConnectionFailed("the daemon's answer has a head without an end")
            self._fill()
        head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
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
            return self.answer(method)
        if headers.get("connection", "").lower() == "close" or parts[0] == "HTTP/1.0":
            self.reusable = False
        return Response(self, method, status, headers)

    def _fill(self) -> None:
        self._buffer += self._receive(CHUNK)

    def _receive(self, size: int) -> bytes:
        try:
            data = self._sock.recv(size)
        except TimeoutError:
            raise ConnectionFailed("the daemon did not answer in time") from None
        except ConnectionResetError:
            data = b""
        if not data:
            self.reusable = False
            raise ConnectionFailed(
                "the daemon closed the connection before its answer was complete"
            )
        return data

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._fill()
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _some(self, limit: int) -> bytes:
        if not self._buffer:
            if limit >= CHUNK:
                # Large pieces go to the caller as they come.
                return self._receive(min(limit, LARGE_CHUNK))
            self._fill()
        data, self._buffer = self._buffer[:limit], self._buffer[limit:]
        return data

    def take(self) -> tuple[Socket, bytes]:
        """The socket itself and what was read beyond the head."""
        self.reusable = False
        return self._sock, self._buffer


class Response:
    """One answer: its head, and its body as a whole or in pieces."""

    __slots__ = ("_connection", "_method", "headers", "status")

    def __init__(
        self, connection: Connection, method: str, status: int, headers: dict[str, str]
    ) -> None:
        self._connection, self._method = connection, method
        self.status, self.headers = status, headers

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives; ends with the body."""
        source = self._connection
        if self._method == "HEAD" or self.status in (204, 304):
            return
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(source._line().split(b";")[0], 16):
                while size:
                    data = source._some(size)
                    size -= len(data)
                    yield data
                source._line()
            while source._line():
                pass
        elif "content-length" in self.headers:
            left = int(self.headers["content-length"])
            while left:
                data = source._some(left)
                left -= len(data)
                yield data
        else:
            source.reusable = False
            while True:
                try:
                    yield source._some(CHUNK)
                except ConnectionFailed:
                    return

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())

    def hijack(self) -> tuple[Socket, bytes]:
        """The raw stream behind the head: the socket, and the bytes of it read already."""
        return self._connection.take()

    def fileno(self) -> int:
        return self._connection._sock.fileno()

    def close(self) -> None:
        """Give up the rest of the body."""
        self._connection.close()
