"""The resolver of one container: a keeper service on 127.0.0.11.

Names of containers are answered from the names files, everything else is forwarded to the host's
resolvers (or those of ``--dns``) from the host's network namespace, so that a resolver on the
host's own loopback serves as well.  The service needs no daemon.

Configuration: ``directory`` and ``container`` (the names files), ``servers`` (empty: those of the
file ``resolv_conf``, read again when it changes).
"""

from __future__ import annotations

import socket
from typing import Any

from sampan.linux import nftables, rtnetlink
from sampan.network import dnswire, live, nft_resolver
from sampan.network.files import EMBEDDED_RESOLVER
from sampan.network.forward import Forwarder, Upstreams
from sampan.network.lookup import Lookup
from sampan.network.poller import READ, Poller
from sampan.network.stream import Stream
from sampan.runtime.interfaces import LOOPBACK_INDEX
from sampan.runtime.services import Register

_BACKLOG = 64
_DATAGRAMS_A_TURN = 64
_MAXIMUM_STREAMS = 64


def start(config: dict[str, Any], netns_fd: int | None, register: Register) -> Resolver:
    """Implements :class:`~sampan.runtime.services.KeeperService`.  Raises :class:`OSError`."""
    if netns_fd is None:
        raise ValueError("a resolver needs a container with a network namespace of its own")
    made = Resolver(
        Lookup(config["directory"], config["container"]),
        Upstreams(config["servers"], config["resolv_conf"]),
        netns_fd,
    )
    register(made.fileno(), made.turn)
    return made


class Resolver:
    """Serves UDP and TCP; ``turn`` is called when ``fileno`` is readable."""

    def __init__(self, lookup: Lookup, upstreams: Upstreams, netns_fd: int) -> None:
        self._lookup = lookup
        self._poller = Poller()
        self._forwarder = Forwarder(self._poller, upstreams)
        self._streams: set[Stream] = set()
        with live.inside(netns_fd), nftables.open_socket() as netfilter:
            # The address exists only while the loopback is up, which the init has yet to do.
            with rtnetlink.open_socket() as route:
                route.request([rtnetlink.set_up(LOOPBACK_INDEX, "lo")])
            self._udp = _bound(socket.SOCK_DGRAM)
            self._tcp = _bound(socket.SOCK_STREAM)
            self._tcp.listen(_BACKLOG)
            nft_resolver.redirect(netfilter, self._udp.getsockname()[1], self._tcp.getsockname()[1])
        self._poller.add(self._udp.fileno(), READ, self._datagrams)
        self._poller.add(self._tcp.fileno(), READ, self._accept)

    def fileno(self) -> int:
        return self._poller.fileno()

    def turn(self) -> None:
        self._poller.turn()

    def close(self) -> None:
        for stream in list(self._streams):
            stream.close()
        self._forwarder.close()
        self._udp.close()
        self._tcp.close()
        self._poller.close()

    def _datagrams(self, _: int) -> None:
        for _turn in range(_DATAGRAMS_A_TURN):
            try:
                data, peer = self._udp.recvfrom(dnswire.MAXIMUM_SIZE)
            except OSError:
                return
            self._serve(data, _DatagramPeer(self._udp, peer))

    def _accept(self, _: int) -> None:
        try:
            connection, _peer = self._tcp.accept()
        except OSError:
            return
        if len(self._streams) >= _MAXIMUM_STREAMS:
            connection.close()
            return
        self._streams.add(
            Stream(self._poller, connection, self._serve, closed=self._streams.discard)
        )

    def _serve(self, data: bytes, peer: _DatagramPeer | Stream) -> None:
        try:
            query = dnswire.parse(data)
        except dnswire.Malformed:
            refusal = dnswire.failure(data, dnswire.FORMAT_ERROR)
            if refusal:
                peer.reply(refusal)
            return
        limit = query.size if isinstance(peer, _DatagramPeer) else dnswire.MAXIMUM_SIZE
        if dnswire.opcode(query):
            peer.reply(dnswire.answer(query, dnswire.NOT_IMPLEMENTED, [], limit))
            return
        found = self._lookup.answer(query, limit)
        if found is not None:
            peer.reply(found)
            return
        failed = dnswire.answer(query, dnswire.SERVER_FAILURE, [], limit)
        if not self._lookup.may_forward():
            peer.reply(failed)
        elif isinstance(peer, _DatagramPeer):
            self._forwarder.datagram(query, data, peer.reply, failed)
        else:
            self._forwarder.stream(query, data, peer.reply, failed)


class _DatagramPeer:
    """Who sent a datagram."""

    __slots__ = ("_address", "_socket")

    def __init__(self, sock: socket.socket, address: tuple[str, int]) -> None:
        self._socket = sock
        self._address = address

    def reply(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, self._address)
        except OSError:
            pass  # a full buffer or an asker that is gone: it asks again


def _bound(kind: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        made.bind((EMBEDDED_RESOLVER, 0))
    except OSError:
        made.close()
        raise
    return made
