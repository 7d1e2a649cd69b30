"""The firewall as one nftables table of the ``inet`` family.

The table, for a daemon with one bridge and one published port, as ``nft list`` shows it::

    set bridges { type ifname; elements = { "sampan0" } }
    set joined { type ifname . ifname; elements = { "sampan0" . "sampan0" } }
    set direct4 { type inet_proto . ipv4_addr . inet_service }
    set linked4 { type ipv4_addr . ipv4_addr . inet_proto . inet_service }
    set open4, routed4 { type ifname }
    map sources4 { type ipv4_addr : ipv4_addr; flags interval }
    set subnets4 { type ipv4_addr; flags interval; elements = { 172.17.0.0/16 } }
    set masqueraded4 { … }
    map any4 { type inet_proto . inet_service : ipv4_addr . inet_service
               elements = { tcp . 8080 : 172.17.0.2 . 80 } }
    map at4 { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service }
    chain guard { type filter hook prerouting priority raw
        ip daddr 127.0.0.0/8 iifname @bridges drop }
    chain prerouting { type nat hook prerouting priority dstnat
        ip daddr 127.0.0.0/8 return
        fib daddr type local jump publish }
    chain output { type nat hook output priority dstnat
        fib daddr type local jump publish }
    chain publish {
        dnat ip to meta l4proto . ip daddr . th dport map @at4
        dnat ip to meta l4proto . th dport map @any4 }
    chain postrouting { type nat hook postrouting priority srcnat
        oifname != @bridges snat ip to ip saddr map @sources4
        oifname != @bridges ip saddr @masqueraded4 masquerade
        ct status dnat oifname @bridges ip saddr @subnets4 masquerade   # hairpin
        oifname @bridges ip saddr 127.0.0.0/8 masquerade }              # loopback publishing
    chain forward { type filter hook forward priority filter
        ct state established,related accept
        iifname . oifname @joined accept
        iifname @internal drop
        oifname @internal drop
        oifname @bridges jump inward }
    chain inward {
        ct status dnat accept
        meta l4proto . ip daddr . th dport @direct4 accept              # routed gateways
        ip saddr . ip daddr . meta l4proto . th dport @linked4 accept   # links without ICC
        iifname @bridges drop
        iifname != @bridges oifname @open4 accept
        meta l4proto icmp oifname @routed4 accept
        drop }

Loopback publishing needs ``route_localnet`` on the bridges; ``guard`` keeps it from opening the
host's loopback to the containers.  Nothing reaches a container from another bridge or from outside
but answers and translated connections, so that a host on the LAN that routes to a bridge's subnet,
published port or not, meets ``drop``.  A packet from the wire to 127.0.0.0/8 is never translated,
so that ports published on the loopback stay there.  Every change is one transaction, and only this
table is touched.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Iterable, Sequence

from sampan.linux import nftables as nft
from sampan.linux.netlink import Message
from sampan.network.firewall import BridgeRules, Opening, Port, Rules

_ICMP = {4: 1, 6: 58}
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_FAMILY = nft.NFPROTO_INET
_RTN_LOCAL = struct.pack("=I", 2)
_LOOPBACK4 = b"\x7f"
_LOOPBACK6 = ipaddress.IPv6Address("::1").packed
_IP_FAMILIES = (4, 6)
# Those whose elements the kernel gives back as they were added.
_PLAIN_SETS = (
    "bridges",
    "internal",
    "joined",
    *(f"{name}{v}" for name in ("open", "routed", "any", "at", "direct", "linked") for v in (4, 6)),
)


class NftFirewall:
    """Implements :class:`~sampan.network.firewall.Firewall`.

    The socket belongs to the network namespace in which the object is made.
    """

    def __init__(self, table: str) -> None:
        self._table = table
        self._socket = nft.open_socket()

    def close(self) -> None:
        self._socket.close()

    def rebuild(self, rules: Rules) -> None:
        table = self._table
        messages = [
            nft.add_table(_FAMILY, table),
            nft.delete_table(_FAMILY, table),
            nft.add_table(_FAMILY, table),
            *self._sets(),
            *self._chains(),
        ]
        elements: dict[str, list[bytes]] = {}
        for bridge in rules.bridges:
            _merge(elements, _bridge_elements(bridge))
        _merge(elements, _port_elements(rules.ports))
        nft.commit(self._socket, messages + self._add(elements))

    def add_bridge(self, bridge: BridgeRules) -> None:
        nft.commit(self._socket, self._add(_bridge_elements(bridge)))

    def remove_bridge(self, bridge: BridgeRules) -> None:
        self._delete(_bridge_elements(bridge))

    def publish(self, ports: Sequence[Port]) -> None:
        if ports:
            nft.commit(self._socket, self._add(_port_elements(ports)))

    def unpublish(self, ports: Sequence[Port]) -> None:
        if ports:
            self._delete(_port_elements(ports))

    def remove_all(self) -> None:
        try:
            nft.commit(self._socket, [nft.delete_table(_FAMILY, self._table)])
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def intact(self) -> bool:
        return nft.table_exists(self._socket, _FAMILY, self._table)

    def differences(self, rules: Rules) -> list[str]:
        if not self.intact():
            return [f"the nftables table {self._table} is missing"]
        wanted: dict[str, list[bytes]] = {name: [] for name in _PLAIN_SETS}
        for bridge in rules.bridges:
            _merge(wanted, _bridge_elements(bridge))
        _merge(wanted, _port_elements(rules.ports))
        found = []
        for name in _PLAIN_SETS:
            here = nft.elements(self._socket, _FAMILY, self._table, name)
            should = nft.parse_elements(b"".join(wanted[name]))
            if here - should:
                found.append(f"the nftables set {name} has {len(here - should)} elements too many")
            if should - here:
                found.append(f"the nftables set {name} lacks {len(should - here)} elements")
        return found

    def _add(self, elements: dict[str, list[bytes]]) -> list[Message]:
        return [
            message
            for name, members in elements.items()
            for message in nft.add_elements(_FAMILY, self._table, name, members)
        ]

    def _delete(self, elements: dict[str, list[bytes]]) -> None:
        try:
            nft.commit(self._socket, self._deletions(elements))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            # Someone has flushed the table, in part or whole: delete what is still there.
            for name, members in elements.items():
                for member in members:
                    self._delete_if_there(name, member)

    def _delete_if_there(self, name: str, member: bytes) -> None:
        try:
            nft.commit(self._socket, self._deletions({name: [member]}))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def _deletions(self, elements: dict[str, list[bytes]]) -> list[Message]:
        return [
            message
            for name, members in elements.items()
            for message in nft.delete_elements(_FAMILY, self._table, name, members)
        ]

    def _sets(self) -> Iterable[Message]:
        names: list[tuple[str, tuple[int, ...], tuple[int, ...], bool]] = [
            ("bridges", (nft.TYPE_IFNAME,), (), False),
            ("internal", (nft.TYPE_IFNAME,), (), False),
            ("joined", (nft.TYPE_IFNAME, nft.TYPE_IFNAME), (), False),
        ]
        for version in _IP_FAMILIES:
            address = _address_type(version)
            service = (nft.TYPE_PROTOCOL, nft.TYPE_SERVICE)
            at = (nft.TYPE_PROTOCOL, address, nft.TYPE_SERVICE)
            target = (address, nft.TYPE_SERVICE)
            link = (address, address, nft.TYPE_PROTOCOL, nft.TYPE_SERVICE)
            names += [
                (f"open{version}", (nft.TYPE_IFNAME,), (), False),
                (f"routed{version}", (nft.TYPE_IFNAME,), (), False),
                (f"sources{version}", (address,), (address,), True),
                (f"direct{version}", at, (), False),
                (f"linked{version}", link, (), False),
                (f"subnets{version}", (address,), (), True),
                (f"masqueraded{version}", (address,), (), True),
                (f"any{version}", service, target, False),
                (f"at{version}", at, target, False),
            ]
        for number, (name, key, data, interval) in enumerate(names, 1):
            yield nft.add_set(_FAMILY, self._table, name, number, key, data, interval=interval)

    def _chains(self) -> Iterable[Message]:
        table = self._table
        yield nft.add_chain(_FAMILY, table, "publish")
        yield nft.add_chain(_FAMILY, table, "inward")
        for name, kind, hook, priority in (
            ("guard", "filter", nft.HOOK_PREROUTING, nft.PRIORITY_RAW),
            ("prerouting", "nat", nft.HOOK_PREROUTING, nft.PRIORITY_DSTNAT),
            ("output", "nat", nft.HOOK_OUTPUT, nft.PRIORITY_DSTNAT),
            ("postrouting", "nat", nft.HOOK_POSTROUTING, nft.PRIORITY_SRCNAT),
            ("forward", "filter", nft.HOOK_FORWARD, nft.PRIORITY_FILTER),
        ):
            yield nft.add_base_chain(_FAMILY, table, name, kind, hook, priority)
        for chain, expressions in _rules():
            yield nft.add_rule(_FAMILY, table, chain, *expressions)


def _rules() -> Iterable[tuple[str, list[bytes]]]:
    local = [nft.fib_daddr_type(), nft.equal(_RTN_LOCAL), nft.jump("publish")]
    from_loopback4 = [*_ip(4), nft.payload(nft.BASE_NETWORK, 12, 1), nft.equal(_LOOPBACK4)]
    to_loopback4 = [*_ip(4), nft.payload(nft.BASE_NETWORK, 16, 1), nft.equal(_LOOPBACK4)]
    to_loopback6 = [*_ip(6), nft.payload(nft.BASE_NETWORK, 24, 16), nft.equal(_LOOPBACK6)]
    from_bridge = [nft.meta(nft.META_IIFNAME), nft.lookup("bridges")]
    from_elsewhere = [nft.meta(nft.META_IIFNAME), nft.lookup_not("bridges")]
    to_bridge = [nft.meta(nft.META_OIFNAME), nft.lookup("bridges")]
    to_elsewhere = [nft.meta(nft.META_OIFNAME), nft.lookup_not("bridges")]
    translated = _conntrack(nft.CT_STATUS, nft.CT_STATUS_DNAT)
    answer = _conntrack(nft.CT_STATE, nft.CT_ESTABLISHED_RELATED)
    accept, drop = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)

    # For every packet that arrives at the host: the test that most packets fail is first.
    yield "guard", [*to_loopback4, *from_bridge, drop]
    yield "prerouting", [*to_loopback4, nft.verdict(nft.RETURN)]
    yield "prerouting", local
    # The kernel routes no packet with the source ::1 to another link: the keeper relays these.
    yield "output", [*to_loopback6, nft.verdict(nft.RETURN)]
    yield "output", local
    for version in _IP_FAMILIES:
        family = nft.NFPROTO_IPV4 if version == 4 else nft.NFPROTO_IPV6
        words = 1 if version == 4 else 4
        offset = 16 if version == 4 else 24
        target = nft.dnat(family, nft.REG, nft.REG + words)
        protocol = nft.meta(nft.META_L4PROTO, nft.REG)
        address = nft.payload(nft.BASE_NETWORK, offset, 4 * words, nft.REG + 1)
        yield (
            "publish",
            [
                *_ip(version),
                protocol,
                address,
                nft.payload(nft.BASE_TRANSPORT, 2, 2, nft.REG + 1 + words),
                nft.translate(f"at{version}"),
                target,
            ],
        )
        port = nft.payload(nft.BASE_TRANSPORT, 2, 2, nft.REG + 1)
        yield (
            "publish",
            [*_ip(version), protocol, port, nft.translate(f"any{version}"), target],
        )
        source = nft.payload(nft.BASE_NETWORK, 12 if version == 4 else 8, 4 * words)
        within = [*_ip(version), source]
        yield (
            "postrouting",
            [
                *to_elsewhere,
                *within,
                nft.translate(f"sources{version}"),
                nft.snat(family, nft.REG),
            ],
        )
        yield (
            "postrouting",
            [*to_elsewhere, *within, nft.lookup(f"masqueraded{version}"), nft.masquerade()],
        )
        yield (
            "postrouting",
            [
                *translated,
                *to_bridge,
                *within,
                nft.lookup(f"subnets{version}"),
                nft.masquerade(),
            ],
        )
    yield "postrouting", [*to_bridge, *from_loopback4, nft.masquerade()]
    # First, because it is most packets; what may not pass never becomes established.
    yield "forward", [*answer, accept]
    yield (
        "forward",
        [
            nft.meta(nft.META_IIFNAME, nft.REG),
            nft.meta(nft.META_OIFNAME, nft.REG + 4),
            nft.lookup("joined"),
            accept,
        ],
    )
    yield "forward", [nft.meta(nft.META_IIFNAME), nft.lookup("internal"), drop]
    yield "forward", [nft.meta(nft.META_OIFNAME), nft.lookup("internal"), drop]
    yield "forward", [*to_bridge, nft.jump("inward")]
    yield "inward", [*translated, accept]
    for version in _IP_FAMILIES:
        yield from _openings(version, accept)
    yield "inward", [*from_bridge, drop]
    for version in _IP_FAMILIES:
        out = nft.meta(nft.META_OIFNAME)
        open_ = [*_ip(version), *from_elsewhere, out, nft.lookup(f"open{version}"), accept]
        icmp = [nft.meta(nft.META_L4PROTO), nft.equal(bytes([_ICMP[version]]))]
        yield "inward", open_
        yield "inward", [*_ip(version), *icmp, out, nft.lookup(f"routed{version}"), accept]
    yield "inward", [drop]


def _openings(version: int, accept: bytes) -> Iterable[tuple[str, list[bytes]]]:
    words = 1 if version == 4 else 4
    source, destination = (12, 16) if version == 4 else (8, 24)

    def address(offset: int, register: int) -> bytes:
        return nft.payload(nft.BASE_NETWORK, offset, 4 * words, nft.REG + register)

    def protocol_and_port(protocol: int, port: int) -> list[bytes]:
        return [
            nft.meta(nft.META_L4PROTO, nft.REG + protocol),
            nft.payload(nft.BASE_TRANSPORT, 2, 2, nft.REG + port),
        ]

    direct = [address(destination, 1), *protocol_and_port(0, 1 + words)]
    yield "inward", [*_ip(version), *direct, nft.lookup(f"direct{version}"), accept]
    pair = [address(source, 0), address(destination, words)]
    linked = [*pair, *protocol_and_port(2 * words, 2 * words + 1)]
    yield "inward", [*_ip(version), *linked, nft.lookup(f"linked{version}"), accept]


def _ip(version: int) -> list[bytes]:
    protocol = nft.NFPROTO_IPV4 if version == 4 else nft.NFPROTO_IPV6
    return [nft.meta(nft.META_NFPROTO), nft.equal(bytes([protocol]))]


def _conntrack(key: int, bits: int) -> list[bytes]:
    return [
        nft.conntrack(key),
        nft.mask(struct.pack("=I", bits)),
        nft.unequal(bytes(4)),
    ]


def _address_type(version: int) -> int:
    return nft.TYPE_IPV4 if version == 4 else nft.TYPE_IPV6


def _merge(into: dict[str, list[bytes]], more: dict[str, list[bytes]]) -> None:
    for name, members in more.items():
        into.setdefault(name, []).extend(members)


def _bridge_elements(bridge: BridgeRules) -> dict[str, list[bytes]]:
    key = nft.interface_key(bridge.name)
    elements = {"bridges": [nft.element(key)]}
    if bridge.icc:
        elements["joined"] = [nft.element(key + key)]
    if bridge.internal:
        elements["internal"] = [nft.element(key)]
    if bridge.trusted:
        trusted = [nft.element(nft.interface_key(name) + key) for name in bridge.trusted]
        elements.setdefault("joined", []).extend(trusted)
    for name, versions in (("open", bridge.open), ("routed", bridge.routed)):
        for version in versions:
            elements[f"{name}{version}"] = [nft.element(key)]
    for subnet, address in bridge.sources:
        network = ipaddress.ip_network(subnet)
        elements.setdefault(f"sources{network.version}", []).extend(
            nft.range_elements(
                network.network_address.packed,
                network.broadcast_address.packed,
                ipaddress.ip_address(address).packed,
            )
        )
    for name, subnets in (("subnets", bridge.subnets), ("masqueraded", bridge.masqueraded)):
        for subnet in subnets:
            network = ipaddress.ip_network(subnet)
            elements.setdefault(f"{name}{network.version}", []).extend(
                nft.range_elements(network.network_address.packed, network.broadcast_address.packed)
            )
    return elements


def _port_elements(ports: Sequence[Port]) -> dict[str, list[bytes]]:
    elements: dict[str, list[bytes]] = {}
    for translation in ports:
        target = ipaddress.ip_address(translation.ip)
        protocol = _word(_PROTOCOLS[translation.protocol].to_bytes(1, "big"))
        if isinstance(translation, Opening):
            port = _word(translation.port.to_bytes(2, "big"))
            if translation.source:
                pair = ipaddress.ip_address(translation.source).packed + target.packed
                name, key = f"linked{target.version}", pair + protocol + port
            else:
                name, key = f"direct{target.version}", protocol + target.packed + port
            elements.setdefault(name, []).append(nft.element(key))
            continue
        port = _word(translation.host_port.to_bytes(2, "big"))
        data = target.packed + _word(translation.port.to_bytes(2, "big"))
        if translation.host_ip:
            host = ipaddress.ip_address(translation.host_ip).packed
            name, key = f"at{target.version}", protocol + host + port
        else:
            name, key = f"any{target.version}", protocol + port
        elements.setdefault(name, []).append(nft.element(key, data))
    return elements


def _word(data: bytes) -> bytes:
    return data.ljust(4, b"\0")
