"""Control connections at the keeper's end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import msgspec

from sampan.runtime import parcel, protocol
from sampan.runtime.loop import HANGUP, IN, OUT, Loop
from sampan.runtime.types import KeeperEvent

_QUEUE_LIMIT = 1000
_FLUSH_TIMEOUT = 1.0

Answer = Callable[[protocol.Reply], None]
Serve = Callable[[protocol.Command, list[int], Answer], None]
"""Carries out a command, takes over its descriptors, and answers once: now or later."""


class Connection:
    """One control connection; what it does not take at once is queued, up to a limit."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        serve: Serve,
        on_close: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._serve = serve
        self._on_close = on_close
        self._receiver = parcel.Receiver(sock)
        self._queue: list[bytes] = []
        sock.setblocking(False)
        loop.add(sock.fileno(), IN, self._ready)

    def send(self, message: bytes) -> None:
        if not self._queue:
            try:
                parcel.send(self._socket, message)
                return
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
        if len(self._queue) >= _QUEUE_LIMIT:
            self.close()
            return
        self._queue.append(message)
        self._loop.modify(self._socket.fileno(), IN | OUT)

    def flush(self) -> None:
        """Send what is queued, waiting for the other side (at the keeper's end)."""
        if self._socket.fileno() >= 0:
            self._socket.settimeout(_FLUSH_TIMEOUT)
            try:
                for message in self._queue:
                    parcel.send(self._socket, message)
            except OSError:
                pass
            self.close()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._on_close(self)

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._send_queued()
        if events & (IN | HANGUP):
            self._receive()

    def _send_queued(self) -> None:
        while self._queue:
            try:
                parcel.send(self._socket, self._queue[0])
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            del self._queue[0]
        self._loop.modify(self._socket.fileno(), IN)

    def _receive(self) -> None:
        while self._socket.fileno() >= 0:
            try:
                message = self._receiver.receive()
            except BlockingIOError:
                return
            except OSError:
                message = None
            if message is None:
                self.close()
                return
            data, fds = message
            try:
                command = protocol.command_decoder.decode(data)
            except msgspec.MsgspecError:
                for fd in fds:
                    os.close(fd)
                self.close()
                return
            self._serve(command, fds, self._answer)

    def _answer(self, reply: protocol.Reply) -> None:
        self.send(protocol.encoder.encode(reply))


class Connections:
    """The daemon's connections: one of each daemon that lives, and the socket for further ones."""

    def __init__(self, loop: Loop, serve: Serve) -> None:
        self._loop = loop
        self._serve = serve
        self._open: list[Connection] = []
        self._listener: socket.socket | None = None

    def listen(self, listener: int) -> None:
        self._listener = socket.socket(fileno=listener)
        self._loop.add(listener, IN, self._accept)

    def add(self, sock: socket.socket) -> None:
        self._open.append(Connection(self._loop, sock, self._serve, self._open.remove))

    def emit(self, event: KeeperEvent) -> None:
        """Tell every daemon."""
        message = protocol.encoder.encode(event)
        for connection in list(self._open):
            connection.send(message)

    def close(self) -> None:
        """Send what is queued, and accept nothing more."""
        for connection in list(self._open):
            connection.flush()
        if self._listener:
            self._listener.close()

    def _accept(self, _: int) -> None:
        assert self._listener is not None
        try:
            connection, _address = self._listener.accept()
        except OSError:
            return
        self.add(connection)
