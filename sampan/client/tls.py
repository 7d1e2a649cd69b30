"""TLS over a socket, with what the standard library's TLS sockets have not: a half-close.

An attached container's input ends when our side says so, while its output goes on.  In TLS that is
the alert ``close_notify`` (RFC 8446, section 6.1), after which we still read.  The engine is given
bytes in memory, so that the alert can be sent without touching what has not been read yet.
"""

from __future__ import annotations

import os
import select
import ssl

from sampan.client.failures import ConnectionFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from sampan.client.hosts import Tls

_CHUNK = 64 << 10
_RECORD = 16 << 10


def context(tls: Tls) -> ssl.SSLContext:
    """What a connection needs of the user's files; OSError if one cannot be read."""
    settings = ssl.create_default_context(
        cafile=tls.ca if tls.ca and os.path.exists(tls.ca) else None
    )
    if not tls.verify:
        settings.check_hostname = False
        settings.verify_mode = ssl.CERT_NONE
    if tls.cert and os.path.exists(tls.cert):
        settings.load_cert_chain(tls.cert, tls.key or None)
    return settings


class TlsSocket:
    """A connected socket below TLS; the methods are a socket's."""

    def __init__(self, plain: socket.socket, settings: ssl.SSLContext, name: str) -> None:
        """Shake hands with the server ``name``; OSError if that fails."""
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._engine = settings.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._read: list[bytes] = []
        while True:
            try:
                self._engine.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError:
                self._flush()
                raise
        self._flush()

    def recv(self, size: int, /) -> bytes:
        """Bytes that have arrived, none at the end; BlockingIOError as a socket's.

        :raises ConnectionFailed: the other side has broken TLS off, with its reason.
        """
        if self._read:
            first = self._read.pop(0)
            if len(first) > size:
                self._read.insert(0, first[size:])
            return first[:size]
        while True:
            try:
                return self._engine.read(size)
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise ConnectionFailed(f"the daemon ended TLS: {_reason(error)}") from None

    def pending(self) -> int:
        """Bytes that have arrived, of which poll knows nothing."""
        return len(self._read) + self._engine.pending() + self._incoming.pending

    def send(self, data: bytes | memoryview, /) -> int:
        """Send the beginning of ``data``; how much that was."""
        sent = self._engine.write(data[:_RECORD])
        self._flush()
        return sent

    def sendall(self, data: bytes, /) -> None:
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def shutdown(self, _how: int, /) -> None:
        """Say that nothing more comes from this side."""
        try:
            # What has arrived is read first: the engine drops it when it sends the alert.
            while data := self._engine.read(_CHUNK):
                self._read.append(data)
        except ssl.SSLError:
            pass
        try:
            self._engine.unwrap()
        except ssl.SSLError:
            pass
        self._flush()

    def fileno(self) -> int:
        return self._plain.fileno()

    def gettimeout(self) -> float | None:
        return self._plain.gettimeout()

    def settimeout(self, value: float | None, /) -> None:
        self._plain.settimeout(value)

    def close(self) -> None:
        self._plain.close()

    def _fill(self) -> None:
        data = self._plain.recv(_CHUNK)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        """Send all that the engine has made, taking in what arrives meanwhile, lest both sides
        wait."""
        view = memoryview(self._outgoing.read())
        while view:
            try:
                view = view[self._plain.send(view) :]
                continue
            except BlockingIOError:
                poller = select.poll()
                poller.register(self._plain, select.POLLIN | select.POLLOUT)
                ready = poller.poll()
            if any(events & select.POLLIN for _, events in ready):
                try:
                    self._fill()
                except BlockingIOError:
                    pass


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
