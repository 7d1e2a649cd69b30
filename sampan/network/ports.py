"""Host ports: which are asked for, and sockets that reserve them.

A published port is held by a bound socket for as long as its container lives (the keeper inherits
it), so that neither another container nor any program of the host gets the port, and a daemon that
is away changes nothing.  IPv4 sockets only reserve: the firewall translates the packets before
they reach a socket.  IPv6 sockets listen: the keeper relays what cannot be translated, which is
``::1`` and, for a container without an IPv6 address, everything.  For a container that has only
IPv6, IPv4 sockets listen too.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sampan.errors import Conflict, InvalidParameter, SampanError
from sampan.network.types import PortBinding

_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}
_EPHEMERAL_TRIES = 64
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Reservation:
    """A resolved binding and the socket that holds its port (None: SCTP on a kernel
    without it, or a port that is reached at the container's own address)."""

    binding: PortBinding
    socket: socket.socket | None


def reserve(
    bindings: Sequence[PortBinding],
    *,
    default_host_ip: str = "",
    ipv6: bool = True,
    listen4: bool = False,
    routed: Collection[int] = (),
) -> list[Reservation]:
    """Reserve all or none.  ``ipv6``: the host has it; ``listen4``: IPv4 sockets are to be relayed;
    ``routed`` are the IP versions whose ports are reached at the container's own address: their
    bindings have no host port.

    Raises :class:`Conflict` for a taken port, :class:`InvalidParameter` for an impossible request.
    """
    made: list[Reservation] = []
    try:
        for binding in bindings:
            made += _reserve_one(binding, default_host_ip, ipv6, listen4, routed)
    except BaseException:
        release(made)
        raise
    return made


def release(reservations: Sequence[Reservation]) -> None:
    for reservation in reservations:
        if reservation.socket is not None:
            reservation.socket.close()


def hand_over(reservations: Sequence[Reservation]) -> list[int]:
    """The descriptors of the sockets, which are the caller's from now on."""
    return [r.socket.detach() for r in reservations if r.socket is not None]


def _reserve_one(
    binding: PortBinding,
    default_host_ip: str,
    ipv6: bool,
    listen4: bool,
    routed: Collection[int],
) -> list[Reservation]:
    if binding.protocol not in _KINDS:
        raise InvalidParameter(f"invalid protocol: {binding.protocol}")
    if not 0 < binding.container_port < 65536:
        raise InvalidParameter(f"invalid container port: {binding.container_port}")
    host_ips = _host_ips(binding.host_ip or default_host_ip, ipv6)
    direct = [ip for ip in host_ips if ipaddress.ip_address(ip).version in routed]
    if direct:
        host_ips = [ip for ip in host_ips if ip not in direct]
        open_ = [Reservation(_resolved(binding, ip, 0), None) for ip in direct]
        if not host_ips:
            return open_
        return open_ + _hold(binding, host_ips, listen4)
    return _hold(binding, host_ips, listen4)


def _hold(binding: PortBinding, host_ips: list[str], listen4: bool) -> list[Reservation]:
    if not binding.host_port:
        return _ephemeral(binding, host_ips, listen4)
    end = binding.host_port_end or binding.host_port
    if not 0 < binding.host_port <= end < 65536:
        raise InvalidParameter(f"invalid host port: {binding.host_port}-{end}")
    for port in range(binding.host_port, end + 1):
        try:
            return _bind_all(binding, host_ips, port, listen4)
        except Conflict:
            if port == end:
                raise
    raise AssertionError("the range has a last port")


def _host_ips(host_ip: str, ipv6: bool) -> list[str]:
    if not host_ip:
        return ["0.0.0.0", "::"] if ipv6 else ["0.0.0.0"]
    try:
        return [str(ipaddress.ip_address(host_ip.strip("[]")))]
    except ValueError:
        raise InvalidParameter(f"invalid host IP address: {host_ip}") from None


def _ephemeral(binding: PortBinding, host_ips: list[str], listen4: bool) -> list[Reservation]:
    """The kernel chooses a port for the first address; the others must have it free as well."""
    for attempt in range(_EPHEMERAL_TRIES):
        first = _bind(binding, host_ips[0], 0, listen4)
        if first.socket is None:
            raise SampanError("an ephemeral SCTP port needs a kernel with SCTP: name the host port")
        try:
            port = first.binding.host_port
            rest = [_bind(binding, ip, port, listen4) for ip in host_ips[1:]]
        except Conflict:
            release([first])
            if attempt == _EPHEMERAL_TRIES - 1:
                raise
        else:
            return [first, *rest]
    raise AssertionError("the last attempt returns or raises")


def _bind_all(
    binding: PortBinding, host_ips: list[str], port: int, listen4: bool
) -> list[Reservation]:
    made: list[Reservation] = []
    try:
        for ip in host_ips:
            made.append(_bind(binding, ip, port, listen4))
    except BaseException:
        release(made)
        raise
    return made


def _bind(binding: PortBinding, host_ip: str, port: int, listen4: bool) -> Reservation:
    family = socket.AF_INET6 if ":" in host_ip else socket.AF_INET
    kind, protocol = _KINDS[binding.protocol]
    try:
        held = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        if binding.protocol == "sctp" and error.errno == errno.EPROTONOSUPPORT:
            return Reservation(_resolved(binding, host_ip, port), None)
        raise
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if binding.protocol == "tcp":
            _claim_tcp(held, host_ip, port, listen4)
        else:
            held.bind((host_ip, port))
        port = held.getsockname()[1]
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            shown = f"[{host_ip}]" if ":" in host_ip else host_ip
            raise Conflict(f"Bind for {shown}:{port} failed: port is already allocated") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidParameter(
                f"cannot publish on {host_ip}:{port}: this host has no such address"
            ) from None
        raise SampanError(
            f"cannot publish on {host_ip}:{port}: {os.strerror(error.errno or 0)}"
        ) from None
    return Reservation(_resolved(binding, host_ip, port), held)


def _claim_tcp(held: socket.socket, host_ip: str, port: int, listen4: bool) -> None:
    """Bind so that connections of an earlier server in TIME_WAIT do not stand in the way, but any
    other socket does, now and later.

    A plain bind is exclusive, and one of many at once succeeds, but TIME_WAIT makes it fail.  Then
    the port is bound to be shared and listened on, which makes the kernel check it against every
    other socket, and made exclusive.  A socket that nobody serves stops listening at once (a
    connection that reaches it, because the firewall was flushed, is refused instead of hanging)
    and keeps its port.
    """
    served = held.family == socket.AF_INET6 or listen4
    try:
        held.bind((host_ip, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host_ip, port))
        held.listen(_BACKLOG)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        if not served:
            held.shutdown(socket.SHUT_RD)
        return
    if served:
        held.listen(_BACKLOG)


def _resolved(binding: PortBinding, host_ip: str, port: int) -> PortBinding:
    return PortBinding(
        container_port=binding.container_port,
        protocol=binding.protocol,
        host_ip=host_ip,
        host_port=port,
    )
