"""One TCP connection of DNS messages, each preceded by its length (RFC 1035 section 4.2.2)."""

from __future__ import annotations

import socket
from collections.abc import Callable

from sampan.network.poller import BROKEN, READ, WRITE, Poller

IDLE_SECONDS = 10.0
_MAXIMUM_BACKLOG = 1 << 18
_READ_SIZE = 65536


class Stream:
    """Reads messages and calls ``received(data, self)`` with each; closes itself when idle, when
    the peer ends, and when the peer does not take its answers."""

    def __init__(
        self,
        poller: Poller,
        connection: socket.socket,
        received: Callable[[bytes, Stream], None],
        *,
        closed: Callable[[Stream], None],
    ) -> None:
        connection.setblocking(False)
        self._poller = poller
        self._connection = connection
        self._received = received
        self._closed = closed
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._open = True
        self._timer = poller.call_later(IDLE_SECONDS, self.close)
        poller.add(connection.fileno(), READ, self._event)

    def reply(self, data: bytes) -> None:
        """Send one message; does nothing after the end."""
        if not self._open:
            return
        self._outgoing += len(data).to_bytes(2, "big") + data
        if len(self._outgoing) > _MAXIMUM_BACKLOG:
            self.close()
            return
        self._flush()

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._timer.cancel()
        self._poller.remove(self._connection.fileno())
        self._connection.close()
        self._closed(self)

    def _event(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self._open and events & (READ | BROKEN):
            self._read()

    def _read(self) -> None:
        try:
            data = self._connection.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._timer.cancel()
        self._timer = self._poller.call_later(IDLE_SECONDS, self.close)
        self._incoming += data
        while self._open and len(self._incoming) >= 2:
            length = int.from_bytes(self._incoming[:2], "big")
            if len(self._incoming) < 2 + length:
                return
            message = bytes(self._incoming[2 : 2 + length])
            del self._incoming[: 2 + length]
            self._received(message, self)

    def _flush(self) -> None:
        try:
            sent = self._connection.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._outgoing[:sent]
        self._poller.modify(self._connection.fileno(), READ | WRITE if self._outgoing else READ)
