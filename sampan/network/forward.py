"""Queries for the world, passed on to the host's resolvers and back.

Each query has a socket of its own, so that its port and identity are as hard to guess as the
kernel makes them.  A server that does not answer in two seconds, refuses or fails, is passed over
for the next; each is tried twice.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from sampan.network import dnswire
from sampan.network.dnswire import Query
from sampan.network.files import EMBEDDED_RESOLVER, parse_resolv_conf
from sampan.network.poller import BROKEN, READ, WRITE, Poller
from sampan.runtime.loop import Timer

_TIMEOUT_SECONDS = 2.0
_ROUNDS = 2
_MAXIMUM_PENDING = 512
_PORT = 53

Reply = Callable[[bytes], None]


class Upstreams:
    """The servers to ask: the given ones, or those of a resolv.conf as it is now."""

    def __init__(self, servers: list[str], resolv_conf: str) -> None:
        self._fixed = list(servers)
        self._path = resolv_conf
        self._seen = (0, 0)
        self._read: list[str] = []

    def current(self) -> list[str]:
        if self._fixed:
            return self._fixed
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_mtime_ns)
            if seen != self._seen:
                fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    text = os.read(fd, 65536).decode("utf-8", "replace")
                finally:
                    os.close(fd)
                found = parse_resolv_conf(text).servers
                self._read = [server for server in found if server != EMBEDDED_RESOLVER]
                self._seen = seen
        except OSError:
            pass  # the last known ones
        return self._read


class Forwarder:
    """Passes queries on; bounded in number."""

    def __init__(self, poller: Poller, upstreams: Upstreams) -> None:
        self._poller = poller
        self._upstreams = upstreams
        self._pending: set[_Exchange] = set()

    def datagram(self, query: Query, data: bytes, reply: Reply, failed: bytes) -> None:
        """``failed`` is the answer when no server gives one."""
        self._start(_Datagram, query, data, reply, failed)

    def stream(self, query: Query, data: bytes, reply: Reply, failed: bytes) -> None:
        self._start(_Stream, query, data, reply, failed)

    def close(self) -> None:
        for exchange in list(self._pending):
            exchange.drop()

    def _start(
        self, kind: type[_Exchange], query: Query, data: bytes, reply: Reply, failed: bytes
    ) -> None:
        servers = self._upstreams.current()
        if not servers or len(self._pending) >= _MAXIMUM_PENDING:
            reply(failed)
            return
        exchange = kind(self._poller, servers * _ROUNDS, query, data)
        self._pending.add(exchange)

        def finished(answer: bytes | None) -> None:
            self._pending.discard(exchange)
            reply(failed if answer is None else answer)

        exchange.begin(finished)


class _Exchange:
    """One query on its way through the servers."""

    _kind: int

    def __init__(self, poller: Poller, servers: list[str], query: Query, data: bytes) -> None:
        self._poller = poller
        self._servers = servers
        self._query = query
        self._data = data
        self._identity = 0
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._finished: Callable[[bytes | None], None] = lambda answer: None
        self._last: bytes | None = None

    def begin(self, finished: Callable[[bytes | None], None]) -> None:
        self._finished = finished
        self._next()

    def drop(self) -> None:
        """End without an answer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._poller.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _next(self) -> None:
        self.drop()
        while self._servers:
            server = self._servers.pop(0)
            try:
                self._ask(server)
            except OSError:
                self.drop()
                continue
            self._timer = self._poller.call_later(_TIMEOUT_SECONDS, self._next)
            return
        self._finished(self._last)

    def _ask(self, server: str) -> None:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        made = socket.socket(family, self._kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket = made
        self._identity = int.from_bytes(os.urandom(2), "big")
        code = made.connect_ex(_address(server))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        self._send(made, dnswire.with_identity(self._data, self._identity))

    def _send(self, made: socket.socket, message: bytes) -> None:
        raise NotImplementedError

    def _answered(self, message: bytes) -> None:
        """A message from the server: what is not the answer to our question is ignored."""
        if len(message) < 12 or int.from_bytes(message[:2], "big") != self._identity:
            return
        question = message[12 : 12 + len(self._query.question)]
        flags = int.from_bytes(message[2:4], "big")
        if not flags & 0x8000 or (question and question.lower() != self._query.question.lower()):
            return
        answer = dnswire.with_identity(message, self._query.identity)
        if flags & 0xF == dnswire.SERVER_FAILURE and self._servers:
            self._last = answer
            self._next()
            return
        self.drop()
        self._finished(answer)


class _Datagram(_Exchange):
    _kind = socket.SOCK_DGRAM

    def _send(self, made: socket.socket, message: bytes) -> None:
        made.send(message)
        self._poller.add(made.fileno(), READ, self._readable)

    def _readable(self, _: int) -> None:
        assert self._socket is not None
        try:
            message = self._socket.recv(dnswire.MAXIMUM_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self._next()
            return
        self._answered(message)


class _Stream(_Exchange):
    _kind = socket.SOCK_STREAM

    def _send(self, made: socket.socket, message: bytes) -> None:
        self._outgoing = len(message).to_bytes(2, "big") + message
        self._incoming = b""
        self._poller.add(made.fileno(), WRITE, self._event)

    def _event(self, events: int) -> None:
        assert self._socket is not None
        try:
            if self._outgoing:
                sent = self._socket.send(self._outgoing)
                self._outgoing = self._outgoing[sent:]
                if not self._outgoing:
                    self._poller.modify(self._socket.fileno(), READ)
                return
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self._next()
            return
        if not data or (events & BROKEN and not data):
            self._next()
            return
        self._incoming += data
        length = int.from_bytes(self._incoming[:2], "big")
        if len(self._incoming) >= 2 + length > 2:
            message = self._incoming[2 : 2 + length]
            self._incoming = self._incoming[2 + length :]
            self._answered(message)


def _address(server: str) -> tuple[str, int] | tuple[str, int, int, int]:
    """The socket address of a nameserver entry; IPv6 ones may name their link."""
    if ":" not in server:
        return server, _PORT
    address, _, link = server.partition("%")
    return address, _PORT, 0, socket.if_nametoindex(link) if link else 0
