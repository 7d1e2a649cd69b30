"""rtnetlink: links, addresses and routes as messages of :mod:`sampan.linux.netlink`.

The functions make messages and do nothing, so that a caller sends several in one system call.
Formats are those of ``linux/rtnetlink.h``, ``linux/if_link.h`` and ``linux/if_addr.h``.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from typing import NamedTuple

from sampan.linux.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Socket,
    attribute,
    attributes,
    nested,
    text,
    u8,
    u32,
)

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26

RTNLGRP_LINK = 1
RTNLGRP_IPV4_IFADDR = 5

IFF_UP = 0x1

IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_NET_NS_FD = 28
IFLA_NUM_TX_QUEUES = 31
IFLA_NUM_RX_QUEUES = 32

IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_INFO_SLAVE_KIND = 4
IFLA_INFO_SLAVE_DATA = 5
VETH_INFO_PEER = 1
IFLA_BRPORT_MODE = 4
IFLA_BRPORT_ISOLATED = 33
IFLA_MACVLAN_MODE = 1
IFLA_IPVLAN_MODE = 1
IFLA_IPVLAN_FLAGS = 2
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
IFLA_VLAN_ID = 1

IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_BROADCAST = 4
IFA_FLAGS = 8
IFA_F_NODAD = 0x02

RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
RTPROT_STATIC = 4
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RTN_UNICAST = 1

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")


# Queues of a veth are for XDP programs alone, and the kernel would make one for each processor:
# three quarters of the time of making the pair.
_ONE_QUEUE = u32(IFLA_NUM_TX_QUEUES, 1) + u32(IFLA_NUM_RX_QUEUES, 1)


class Link(NamedTuple):
    ifindex: int
    name: str
    flags: int
    mtu: int
    kind: str
    master: int
    mac: str


class Address(NamedTuple):
    ifindex: int
    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface


class Route(NamedTuple):
    """A unicast route of the main table; ``destination`` of the default route has length 0."""

    ifindex: int
    destination: ipaddress.IPv4Network | ipaddress.IPv6Network


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _new_link(
    body: bytes, what: str, *, index: int = 0, flags: int = 0, change: int = 0, create: bool = True
) -> Message:
    return Message(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL if create else 0,
        _IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, change) + body,
        what,
    )


def add_veth(
    name: str, peer: str, netns_fd: int, *, peer_mac: str, mtu: int, master: int
) -> Message:
    """A veth pair: ``name`` here, up and a port of the bridge ``master`` (0: none), its peer made
    in the namespace ``netns_fd`` under its final name and down."""
    inside = _ONE_QUEUE + text(IFLA_IFNAME, peer) + u32(IFLA_MTU, mtu)
    inside += u32(IFLA_NET_NS_FD, netns_fd)
    if peer_mac:
        inside += attribute(IFLA_ADDRESS, mac_bytes(peer_mac))
    info = [
        text(IFLA_INFO_KIND, "veth"),
        nested(
            IFLA_INFO_DATA,
            attribute(VETH_INFO_PEER, _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + inside),
        ),
    ]
    body = _ONE_QUEUE + text(IFLA_IFNAME, name) + u32(IFLA_MTU, mtu)
    body += nested(IFLA_LINKINFO, *info)
    if master:
        body += u32(IFLA_MASTER, master)
    what = f"making the veth {name} with its peer {peer}"
    return _new_link(body, what, flags=IFF_UP, change=IFF_UP)


def set_bridge_port(name: str, *, isolated: bool, hairpin: bool) -> Message:
    """Properties of a port of a bridge: isolated ones do not reach each other; with ``hairpin``
    a frame may leave by the port that it came in by."""
    body = text(IFLA_IFNAME, name) + nested(
        IFLA_LINKINFO,
        text(IFLA_INFO_SLAVE_KIND, "bridge"),
        nested(
            IFLA_INFO_SLAVE_DATA,
            u8(IFLA_BRPORT_MODE, hairpin),
            u8(IFLA_BRPORT_ISOLATED, isolated),
        ),
    )
    return _new_link(body, f"setting up the bridge's port {name}", create=False)


def add_bridge(name: str, *, mtu: int, mac: str) -> Message:
    """A bridge, up.  A fixed address keeps it from changing with its ports."""
    body = (
        text(IFLA_IFNAME, name)
        + u32(IFLA_MTU, mtu)
        + attribute(IFLA_ADDRESS, mac_bytes(mac))
        + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"))
    )
    return _new_link(body, f"making the bridge {name}", flags=IFF_UP, change=IFF_UP)


def add_macvlan(name: str, parent: int, mode: str, netns_fd: int, *, mac: str, mtu: int) -> Message:
    """A macvlan of the link ``parent`` inside the namespace ``netns_fd``, down."""
    body = (
        text(IFLA_IFNAME, name)
        + u32(IFLA_MTU, mtu)
        + u32(IFLA_LINK, parent)
        + u32(IFLA_NET_NS_FD, netns_fd)
        + nested(
            IFLA_LINKINFO,
            text(IFLA_INFO_KIND, "macvlan"),
            nested(IFLA_INFO_DATA, u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])),
        )
    )
    if mac:
        body += attribute(IFLA_ADDRESS, mac_bytes(mac))
    return _new_link(body, f"making the macvlan {name}")


def add_ipvlan(name: str, parent: int, mode: str, flag: str, netns_fd: int, *, mtu: int) -> Message:
    """An ipvlan of the link ``parent`` inside the namespace ``netns_fd``, down."""
    body = (
        text(IFLA_IFNAME, name)
        + u32(IFLA_MTU, mtu)
        + u32(IFLA_LINK, parent)
        + u32(IFLA_NET_NS_FD, netns_fd)
        + nested(
            IFLA_LINKINFO,
            text(IFLA_INFO_KIND, "ipvlan"),
            nested(
                IFLA_INFO_DATA,
                attribute(IFLA_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[mode])),
                attribute(IFLA_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[flag])),
            ),
        )
    )
    return _new_link(body, f"making the ipvlan {name}")


def add_vlan(name: str, parent: int, tag: int) -> Message:
    """An 802.1q sub-interface of a link, up."""
    body = (
        text(IFLA_IFNAME, name)
        + u32(IFLA_LINK, parent)
        + nested(
            IFLA_LINKINFO,
            text(IFLA_INFO_KIND, "vlan"),
            nested(IFLA_INFO_DATA, attribute(IFLA_VLAN_ID, struct.pack("=H", tag))),
        )
    )
    return _new_link(body, f"making the VLAN link {name}", flags=IFF_UP, change=IFF_UP)


def add_dummy(name: str) -> Message:
    """A dummy link, up."""
    body = text(IFLA_IFNAME, name) + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "dummy"))
    return _new_link(body, f"making the dummy link {name}", flags=IFF_UP, change=IFF_UP)


def set_up(index: int, name: str) -> Message:
    return _new_link(
        b"", f"setting {name} up", index=index, flags=IFF_UP, change=IFF_UP, create=False
    )


def set_master(index: int, name: str, master: int) -> Message:
    """Make a link a port of the bridge with the index ``master``."""
    return _new_link(
        u32(IFLA_MASTER, master), f"putting {name} on its bridge", index=index, create=False
    )


def delete_link(name: str, *, missing_ok: bool = False) -> Message:
    return Message(
        RTM_DELLINK,
        0,
        _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(IFLA_IFNAME, name),
        f"deleting the link {name}",
        (errno.ENODEV,) if missing_ok else (),
    )


def add_address(index: int, name: str, cidr: str, *, exist_ok: bool = False) -> Message:
    """An address with its prefix length; usable at once (no duplicate detection)."""
    address = ipaddress.ip_interface(cidr)
    packed = address.ip.packed
    body = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if isinstance(address, ipaddress.IPv4Interface):
        family = socket.AF_INET
        if address.network.prefixlen < 31:
            body += attribute(IFA_BROADCAST, address.network.broadcast_address.packed)
    else:
        family = socket.AF_INET6
        body += u32(IFA_FLAGS, IFA_F_NODAD)
    return Message(
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_EXCL,
        _IFADDR.pack(family, address.network.prefixlen, 0, 0, index) + body,
        f"giving {name} the address {cidr}",
        (errno.EEXIST,) if exist_ok else (),
    )


def delete_address(index: int, name: str, cidr: str) -> Message:
    address = ipaddress.ip_interface(cidr)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return Message(
        RTM_DELADDR,
        0,
        _IFADDR.pack(family, address.network.prefixlen, 0, 0, index)
        + attribute(IFA_LOCAL, address.ip.packed),
        f"taking the address {cidr} from {name}",
        (errno.EADDRNOTAVAIL,),
    )


def _route(kind: int, flags: int, destination: str, gateway: str, index: int, what: str) -> Message:
    network = ipaddress.ip_network(destination)
    body = u32(RTA_OIF, index)
    if network.prefixlen:
        body += attribute(RTA_DST, network.network_address.packed)
    if gateway:
        body += attribute(RTA_GATEWAY, ipaddress.ip_address(gateway).packed)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    scope = RT_SCOPE_UNIVERSE if gateway or family == socket.AF_INET6 else RT_SCOPE_LINK
    header = _ROUTE.pack(
        family, network.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0
    )
    return Message(kind, flags, header + body, what)


def add_route(destination: str, gateway: str, index: int, name: str) -> Message:
    """A route through ``gateway``, or on the link when that is empty."""
    what = f"adding the route {destination} through {gateway or 'the link'} on {name}"
    return _route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, destination, gateway, index, what)


def replace_route(destination: str, gateway: str, index: int, name: str) -> Message:
    """As :func:`add_route`, in the place of a route to the same destination."""
    what = f"setting the route {destination} through {gateway or 'the link'} on {name}"
    return _route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, destination, gateway, index, what)


def index_of(name: str) -> int:
    """The index of a link in the current network namespace.  OSError ENODEV if there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise OSError(errno.ENODEV, f"no network interface named {name}") from error


def links(route: Socket) -> list[Link]:
    """All links."""
    return [parse_link(payload) for payload in link_payloads(route)]


def link_payloads(route: Socket) -> list[bytes]:
    """All links, for :func:`parse_link`."""
    request = _IFINFO.pack(0, 0, 0, 0, 0)
    return [r.payload for r in route.dump(RTM_GETLINK, request, "listing the links")]


def link_index(payload: bytes) -> int:
    """The index of the link that RTM_NEWLINK or RTM_DELLINK is about."""
    index: int = _IFINFO.unpack_from(payload)[2]
    return index


def parse_link(payload: bytes) -> Link:
    """A link from the payload of RTM_NEWLINK or RTM_DELLINK."""
    _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    name = kind = mac = ""
    mtu = master = 0
    for key, value in attributes(payload[_IFINFO.size :]):
        if key == IFLA_IFNAME:
            name = value.rstrip(b"\0").decode("ascii", "replace")
        elif key == IFLA_MTU:
            (mtu,) = struct.unpack("=I", value)
        elif key == IFLA_MASTER:
            (master,) = struct.unpack("=I", value)
        elif key == IFLA_ADDRESS:
            mac = value.hex(":")
        elif key == IFLA_LINKINFO:
            for inner, data in attributes(value):
                if inner == IFLA_INFO_KIND:
                    kind = data.rstrip(b"\0").decode("ascii", "replace")
    return Link(index, name, flags, mtu, kind, master, mac)


def addresses(route: Socket) -> list[Address]:
    """All addresses of all links."""
    found = []
    for received in route.dump(RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0), "listing the addresses"):
        family, length, _, _, index = _IFADDR.unpack_from(received.payload)
        held = dict(attributes(received.payload[_IFADDR.size :]))
        packed = held.get(IFA_LOCAL) or held.get(IFA_ADDRESS)
        if packed is None or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        address = ipaddress.ip_address(packed)
        found.append(Address(index, ipaddress.ip_interface(f"{address}/{length}")))
    return found


def routes(route: Socket) -> list[Route]:
    """The unicast routes of the main table, both families."""
    found = []
    header = _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)
    for received in route.dump(RTM_GETROUTE, header, "listing the routes"):
        family, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(received.payload)
        if table != RT_TABLE_MAIN or kind != RTN_UNICAST:
            continue
        held = dict(attributes(received.payload[_ROUTE.size :]))
        packed = held.get(RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
        index = struct.unpack("=I", held[RTA_OIF])[0] if RTA_OIF in held else 0
        destination = ipaddress.ip_network((packed, length), strict=False)
        found.append(Route(index, destination))
    return found


def open_socket() -> Socket:
    """An rtnetlink socket in the current network namespace."""
    return Socket(NETLINK_ROUTE)
