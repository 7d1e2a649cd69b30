"""Relays what arrives at sockets of published ports: a keeper service.

The firewall translates packets to published ports before they reach any socket.  What it cannot
translate arrives here: connections to ``::1``, and connections by IPv6 to a container that has only
IPv4.  Bytes are passed on with back-pressure and half-closes; a datagram's asker has a socket of
its own to the container until it is quiet for a minute.

Configuration: ``relays``, a list of ``fd`` (position in ``hold_fds``), ``protocol``, ``address``
and ``port`` of the container; ``hold_fds``, which the keeper adds.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from sampan.network.poller import BROKEN, READ, WRITE, Poller
from sampan.runtime.loop import Timer
from sampan.runtime.services import Register

_CHUNK = 65536
_MAXIMUM_WAITING = 1 << 18
_MAXIMUM_CONNECTIONS = 1024
_MAXIMUM_ASKERS = 512
_QUIET_SECONDS = 60.0
_DATAGRAMS_A_TURN = 64


def start(config: dict[str, Any], netns_fd: int | None, register: Register) -> Relays:
    """Implements :class:`~sampan.runtime.services.KeeperService`; works in the host's namespace."""
    made = Relays(config["relays"], config["hold_fds"])
    register(made.fileno(), made.turn)
    return made


class Relays:
    """All relays of one container; ``turn`` is called when ``fileno`` is readable."""

    def __init__(self, relays: list[dict[str, Any]], held: list[int]) -> None:
        self._poller = Poller()
        self._ports: list[_TcpPort | _UdpPort] = []
        for relay in relays:
            # A copy: the keeper's own descriptor reserves the port to the end.
            served = socket.socket(fileno=socket.dup(held[relay["fd"]]))
            kind = _TcpPort if relay["protocol"] == "tcp" else _UdpPort
            self._ports.append(kind(self._poller, served, (relay["address"], relay["port"])))

    def fileno(self) -> int:
        return self._poller.fileno()

    def turn(self) -> None:
        self._poller.turn()

    def close(self) -> None:
        for port in self._ports:
            port.close()
        self._poller.close()


def _connect(kind: int, target: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    code = made.connect_ex(target)
    if code not in (0, errno.EINPROGRESS):
        made.close()
        raise OSError(code, "the container cannot be reached")
    return made


class _TcpPort:
    def __init__(self, poller: Poller, listener: socket.socket, target: tuple[str, int]) -> None:
        self._poller = poller
        self._listener = listener
        self._target = target
        self._connections: set[_Connection] = set()
        listener.setblocking(False)
        poller.add(listener.fileno(), READ, self._accept)

    def close(self) -> None:
        for connection in list(self._connections):
            connection.close()
        self._poller.remove(self._listener.fileno())
        self._listener.close()

    def _accept(self, _: int) -> None:
        try:
            client, _peer = self._listener.accept()
        except OSError:
            return
        client.setblocking(False)
        if len(self._connections) >= _MAXIMUM_CONNECTIONS:
            client.close()
            return
        try:
            server = _connect(socket.SOCK_STREAM, self._target)
        except OSError:
            client.close()
            return
        self._connections.add(_Connection(self._poller, client, server, self._connections))


class _Side:
    """One end of a relayed connection: what waits to be written to it, and what it may do."""

    __slots__ = ("ended", "events", "gone", "shut", "sock", "waiting")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.waiting = bytearray()
        self.ended = False
        self.shut = False
        self.gone = False
        self.events = 0


class _Connection:
    """Two connected sockets, each one's bytes written to the other."""

    def __init__(
        self,
        poller: Poller,
        client: socket.socket,
        server: socket.socket,
        owner: set[_Connection],
    ) -> None:
        self._poller = poller
        self._owner = owner
        self._client = _Side(client)
        self._server = _Side(server)
        self._connected = False
        poller.add(client.fileno(), 0, lambda events: self._event(self._client, events))
        # Writable means connected.
        poller.add(server.fileno(), WRITE, lambda events: self._event(self._server, events))
        self._server.events = WRITE

    def close(self) -> None:
        if self in self._owner:
            self._owner.discard(self)
            for side in (self._client, self._server):
                self._poller.remove(side.sock.fileno())
                side.sock.close()

    def _event(self, side: _Side, events: int) -> None:
        other = self._server if side is self._client else self._client
        try:
            if not self._connected and side is self._server:
                code = side.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, "not connected")
                self._connected = True
            if events & WRITE or side.waiting:
                self._write(side)
            if events & (READ | BROKEN) and not side.ended:
                self._read(side, other)
            elif events & BROKEN:
                self._hung_up(side)
            self._finish(side, other)
            self._finish(other, side)
        except OSError:
            self.close()
            return
        if self._client.shut and self._server.shut:
            self.close()
            return
        self._wait(self._client, self._server)
        self._wait(self._server, self._client)

    def _read(self, side: _Side, other: _Side) -> None:
        try:
            data = side.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        if not data:
            side.ended = True
            return
        other.waiting += data
        if other is not self._server or self._connected:
            self._write(other)

    def _write(self, side: _Side) -> None:
        if side.waiting:
            try:
                sent = side.sock.send(side.waiting)
            except BlockingIOError:
                return
            del side.waiting[:sent]

    def _hung_up(self, side: _Side) -> None:
        """A side that had ended takes nothing more either; what it sent is still passed on."""
        code = side.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "reset")
        side.waiting.clear()
        side.shut = True
        side.gone = True
        # Epoll reports this state for ever.
        self._poller.remove(side.sock.fileno())

    def _finish(self, side: _Side, other: _Side) -> None:
        """Pass the end of one side on when all its bytes are."""
        if side.ended and not other.waiting and not other.shut and self._connected:
            other.shut = True
            other.sock.shutdown(socket.SHUT_WR)

    def _wait(self, side: _Side, other: _Side) -> None:
        events = 0
        if not side.ended and len(other.waiting) < _MAXIMUM_WAITING:
            events |= READ
        if side.waiting or (side is self._server and not self._connected):
            events |= WRITE
        if events != side.events and not side.gone:
            side.events = events
            self._poller.modify(side.sock.fileno(), events)


class _UdpPort:
    def __init__(self, poller: Poller, served: socket.socket, target: tuple[str, int]) -> None:
        self._poller = poller
        self._served = served
        self._target = target
        self._askers: dict[tuple[Any, ...], _Asker] = {}
        served.setblocking(False)
        poller.add(served.fileno(), READ, self._datagrams)

    def close(self) -> None:
        for asker in list(self._askers.values()):
            asker.close()
        self._poller.remove(self._served.fileno())
        self._served.close()

    def _datagrams(self, _: int) -> None:
        for _turn in range(_DATAGRAMS_A_TURN):
            try:
                data, peer = self._served.recvfrom(_CHUNK)
            except OSError:
                return
            asker = self._askers.get(peer)
            if asker is None:
                if len(self._askers) >= _MAXIMUM_ASKERS:
                    continue
                try:
                    sock = _connect(socket.SOCK_DGRAM, self._target)
                except OSError:
                    continue
                asker = _Asker(self._poller, sock, self._served, peer, self._askers)
            asker.pass_on(data)


class _Asker:
    """One peer of a UDP port."""

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        served: socket.socket,
        peer: tuple[Any, ...],
        owner: dict[tuple[Any, ...], _Asker],
    ) -> None:
        self._poller = poller
        self._socket = sock
        self._served = served
        self._peer = peer
        self._owner = owner
        self._busy = False
        self._timer: Timer = poller.call_later(_QUIET_SECONDS, self._check)
        owner[peer] = self
        poller.add(sock.fileno(), READ, self._answers)

    def pass_on(self, data: bytes) -> None:
        self._busy = True
        try:
            self._socket.send(data)
        except OSError:
            pass  # lost, as datagrams may be

    def close(self) -> None:
        if self._owner.pop(self._peer, None) is not None:
            self._timer.cancel()
            self._poller.remove(self._socket.fileno())
            self._socket.close()

    def _check(self) -> None:
        if not self._busy:
            self.close()
            return
        self._busy = False
        self._timer = self._poller.call_later(_QUIET_SECONDS, self._check)

    def _answers(self, _: int) -> None:
        for _turn in range(_DATAGRAMS_A_TURN):
            try:
                data = self._socket.recv(_CHUNK)
                self._busy = True
                self._served.sendto(data, self._peer)
            except BlockingIOError:
                return
            except OSError:
                return
