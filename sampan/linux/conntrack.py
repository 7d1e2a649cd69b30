"""ctnetlink: forget tracked connections (``linux/netfilter/nfnetlink_conntrack.h``).

Datagrams have no beginning, so that the tracker goes on treating a flow as it treated its first
packet for as long as packets come: after the translation of a port has changed, its flows must be
forgotten.
"""

from __future__ import annotations

import errno
import socket
import struct

from sampan.linux.netlink import (
    NETLINK_NETFILTER,
    Message,
    Received,
    Socket,
    attribute,
    attributes,
    be16,
    nested,
    u8,
    u32,
)

_SUBSYSTEM = 1
_GET = _SUBSYSTEM << 8 | 1
_DELETE = _SUBSYSTEM << 8 | 2
_TUPLE_ORIGINAL = 1
_TUPLE_PROTOCOL = 2
_PROTOCOL_NUMBER, _DESTINATION_PORT = 1, 3
_ZONE = 18
_FILTER = 25
_FILTER_ORIGINAL = 1
_FILTER_REPLY = 2
_MATCH_NUMBER, _MATCH_DESTINATION_PORT = 1 << 3, 1 << 5

UDP = 17


def forget(netfilter: Socket, protocol: int, port: int) -> int:
    """Delete the connections whose original packets go to ``port``; returns how many there were.

    Raises :class:`OSError`.  A kernel without the tracker has none.
    """
    found = 0
    for family in (socket.AF_INET, socket.AF_INET6):
        for entry in _matching(netfilter, family, protocol, port):
            held = dict(attributes(entry.payload[4:]))
            original = held.get(_TUPLE_ORIGINAL)
            if original is None or _destination(original) != (protocol, port):
                continue
            body = nested(_TUPLE_ORIGINAL, original)
            if _ZONE in held:
                body += attribute(_ZONE, held[_ZONE])
            what = f"forgetting the flows to port {port}"
            netfilter.request([Message(_DELETE, 0, _header(family) + body, what, (errno.ENOENT,))])
            found += 1
    return found


def _matching(netfilter: Socket, family: int, protocol: int, port: int) -> list[Received]:
    body = (
        _header(family)
        + nested(
            _TUPLE_ORIGINAL,
            nested(_TUPLE_PROTOCOL, u8(_PROTOCOL_NUMBER, protocol), be16(_DESTINATION_PORT, port)),
        )
        + nested(
            _FILTER,
            u32(_FILTER_ORIGINAL, _MATCH_NUMBER | _MATCH_DESTINATION_PORT),
            u32(_FILTER_REPLY, 0),
        )
    )
    try:
        return netfilter.dump(_GET, body, "listing the tracked connections")
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT):
            # No tracker, or one that cannot filter (Linux before 5.8).
            return []
        raise


def _destination(original: bytes) -> tuple[int, int]:
    for kind, value in attributes(original):
        if kind == _TUPLE_PROTOCOL:
            held = dict(attributes(value))
            port = held.get(_DESTINATION_PORT, b"\0\0")
            return held.get(_PROTOCOL_NUMBER, b"\0")[0], int.from_bytes(port, "big")
    return 0, 0


def _header(family: int) -> bytes:
    return struct.pack(">BBH", family, 0, 0)


def open_socket() -> Socket:
    return Socket(NETLINK_NETFILTER)
