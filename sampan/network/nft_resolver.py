"""Port 53 of 127.0.0.11 inside a container, without taking port 53.

The resolver's sockets have ports of the kernel's choice, so that a DNS server in the container can
bind port 53 of all addresses.  Four stateless rules rewrite the port of what goes to and comes from
the resolver; no connection tracking is switched on for the container.

Where the container itself tracks connections, it must see the same ports in both directions:
requests are rewritten before the tracker (priority raw - 1), answers after it (mangle).
"""

from __future__ import annotations

import ipaddress

from sampan.linux import nftables as nft
from sampan.linux.netlink import Message, Socket
from sampan.network.files import EMBEDDED_RESOLVER

_TABLE = "sampan-resolver"
_FAMILY = nft.NFPROTO_IPV4
_ADDRESS = ipaddress.IPv4Address(EMBEDDED_RESOLVER).packed
_DOMAIN = (53).to_bytes(2, "big")
_SOURCE_PORT, _DESTINATION_PORT = 0, 2
_SOURCE_ADDRESS, _DESTINATION_ADDRESS = 12, 16
# Protocol number and the offset of the checksum in its header.
_UDP, _TCP = (17, 6), (6, 16)


def redirect(netfilter: Socket, udp_port: int, tcp_port: int) -> None:
    """Add the rules in the namespace of the socket.  Raises :class:`OSError`."""
    messages: list[Message] = [
        nft.add_table(_FAMILY, _TABLE),
        nft.add_base_chain(
            _FAMILY, _TABLE, "requests", "filter", nft.HOOK_OUTPUT, nft.PRIORITY_RAW - 1
        ),
        nft.add_base_chain(
            _FAMILY, _TABLE, "answers", "filter", nft.HOOK_OUTPUT, nft.PRIORITY_MANGLE
        ),
    ]
    for (protocol, checksum), port in ((_UDP, udp_port), (_TCP, tcp_port)):
        ours = port.to_bytes(2, "big")
        for chain, address, where, before, after in (
            ("requests", _DESTINATION_ADDRESS, _DESTINATION_PORT, _DOMAIN, ours),
            ("answers", _SOURCE_ADDRESS, _SOURCE_PORT, ours, _DOMAIN),
        ):
            messages.append(
                nft.add_rule(
                    _FAMILY,
                    _TABLE,
                    chain,
                    nft.payload(nft.BASE_NETWORK, address, 4),
                    nft.equal(_ADDRESS),
                    nft.meta(nft.META_L4PROTO),
                    nft.equal(bytes([protocol])),
                    nft.payload(nft.BASE_TRANSPORT, where, 2),
                    nft.equal(before),
                    nft.load(after),
                    nft.set_port(where, checksum),
                )
            )
    nft.commit(netfilter, messages)
