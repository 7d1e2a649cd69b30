"""The firewall on a host that has only iptables (a kernel without nf_tables).

The chains, for a daemon named SAMPAN::

    raw    SAMPAN-GUARD   from PREROUTING    packets from containers to the host's loopback
    nat    SAMPAN-PORTS   from PREROUTING and OUTPUT, for local addresses: one DNAT rule a port
    nat    SAMPAN-OUT     from POSTROUTING   masquerading
    filter SAMPAN-FORWARD from FORWARD       isolation, first in the chain
    filter SAMPAN-OPEN    from the last      ports that are reached at a container's own address

They decide as the nftables implementation does, with one rule where that has one set element.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from sampan.network import iptables
from sampan.network.firewall import BridgeRules, Opening, Port, Rules, Translation

Lines = dict[str, list[str]]


class IptablesFirewall:
    """Implements :class:`~sampan.network.firewall.Firewall`."""

    def __init__(self, name: str) -> None:
        self._name = name.upper()
        self._bridges: dict[str, BridgeRules] = {}
        self._ports: list[Port] = []

    def close(self) -> None:
        pass

    def rebuild(self, rules: Rules) -> None:
        self._bridges = {bridge.name: bridge for bridge in rules.bridges}
        self._ports = list(rules.ports)
        for version in iptables.VERSIONS:
            self._write(version, rules.ports)

    def add_bridge(self, bridge: BridgeRules) -> None:
        self._bridges[bridge.name] = bridge
        self._write_bridges()

    def remove_bridge(self, bridge: BridgeRules) -> None:
        self._bridges.pop(bridge.name, None)
        self._write_bridges()

    def publish(self, ports: Sequence[Port]) -> None:
        self._change("-A", ports)
        self._ports += ports

    def unpublish(self, ports: Sequence[Port]) -> None:
        present = [port for port in ports if port in self._ports]
        self._change("-D", present)
        for port in present:
            self._ports.remove(port)

    def remove_all(self) -> None:
        for version in iptables.VERSIONS:
            lines: Lines = {}
            for table, chain, _ in self._parents(version):
                listed = iptables.listing(version, table)
                if f"-N {chain}" not in listed:
                    continue
                jumps = [line for line in listed if line.endswith(f"-j {chain}")]
                lines.setdefault(table, []).extend(
                    line.replace("-A ", "-D ", 1)
                    for line in jumps
                    if line.replace("-A ", "-D ", 1) not in lines.get(table, [])
                )
                lines[table] += [f"-F {chain}", f"-X {chain}"]
                if table == "filter":
                    lines[table] += [f"-F {self._name}-OPEN", f"-X {self._name}-OPEN"]
            iptables.restore(version, lines)

    def intact(self) -> bool:
        return f"-N {self._name}-PORTS" in iptables.listing(4, "nat")

    def differences(self, rules: Rules) -> list[str]:
        if not self.intact():
            return [f"the iptables chain {self._name}-PORTS is missing"]
        found = []
        for version in iptables.VERSIONS:
            listed = iptables.listing(version, "nat")
            here = sum(line.startswith(f"-A {self._name}-PORTS ") for line in listed)
            should = sum(
                isinstance(port, Translation) and _version(port) == version for port in rules.ports
            )
            if here != should:
                found.append(f"there are {here} port rules of IPv{version} instead of {should}")
        return found

    # Composition

    def _parents(self, version: int) -> list[tuple[str, str, list[str]]]:
        """(table, chain of ours, the rules that lead to it)."""
        name = self._name
        local = "-m addrtype --dst-type LOCAL"
        loopback = "127.0.0.0/8" if version == 4 else "::1/128"
        return [
            ("raw", f"{name}-GUARD", [f"PREROUTING -j {name}-GUARD"]),
            (
                "nat",
                f"{name}-PORTS",
                [
                    # The wire never reaches a port published on the loopback.
                    f"PREROUTING ! -d {loopback} {local} -j {name}-PORTS",
                    f"OUTPUT {'' if version == 4 else '! -d ::1/128 '}{local} -j {name}-PORTS",
                ],
            ),
            ("nat", f"{name}-OUT", [f"POSTROUTING -j {name}-OUT"]),
            ("filter", f"{name}-FORWARD", [f"FORWARD -j {name}-FORWARD"]),
        ]

    def _write(self, version: int, ports: Sequence[Port]) -> None:
        lines: Lines = {}
        for table, chain, jumps in self._parents(version):
            held = lines.setdefault(table, [])
            held.append(f":{chain} - [0:0]")
            listed = iptables.listing(version, table)
            leading = {_parent(line) for line in listed if line.endswith(f"-j {chain}")}
            held += [f"-I {jump}" for jump in jumps if jump.split()[0] not in leading]
        for table, rules in self._bridge_rules(version).items():
            lines[table] += rules
        lines["filter"].insert(0, f":{self._name}-OPEN - [0:0]")
        for port in ports:
            if _version(port) == version:
                table, line = self._port("-A", port)
                lines[table].append(line)
        iptables.restore(version, lines)

    def _write_bridges(self) -> None:
        for version in iptables.VERSIONS:
            lines: Lines = {
                "raw": [f":{self._name}-GUARD - [0:0]"],
                "nat": [f":{self._name}-OUT - [0:0]"],
                "filter": [f":{self._name}-FORWARD - [0:0]"],
            }
            for table, rules in self._bridge_rules(version).items():
                lines[table] += rules
            iptables.restore(version, lines)

    def _bridge_rules(self, version: int) -> Lines:
        guard, out, forward = (f"-A {self._name}-{c}" for c in ("GUARD", "OUT", "FORWARD"))
        lines: Lines = {"raw": [], "nat": [], "filter": []}
        bridges = self._bridges.values()
        for bridge in bridges:
            name = bridge.name
            if version == 4:
                lines["raw"].append(f"{guard} -i {name} -d 127.0.0.0/8 -j DROP")
                lines["nat"].append(f"{out} -s 127.0.0.0/8 -o {name} -j MASQUERADE")
            for subnet in _of(bridge.subnets, version):
                # Between containers, translated: the answer must come back by the host.
                lines["nat"] += [
                    f"{out} -s {subnet} -o {other.name} -m conntrack --ctstate DNAT -j MASQUERADE"
                    for other in bridges
                ]
            for subnet in _of(bridge.masqueraded, version):
                skipped = [f"{out} -s {subnet} -o {other.name} -j RETURN" for other in bridges]
                lines["nat"] += [*skipped, f"{out} -s {subnet} -j MASQUERADE"]
            for subnet, address in bridge.sources:
                if _of([subnet], version):
                    skipped = [f"{out} -s {subnet} -o {other.name} -j RETURN" for other in bridges]
                    source = f"{out} -s {subnet} -j SNAT --to-source {address}"
                    lines["nat"] += [*skipped, source]
        filters = lines["filter"]
        filters += [f"{forward} -i {b.name} -o {b.name} -j ACCEPT" for b in bridges if b.icc]
        for bridge in bridges:
            trusted = [f"{forward} -i {t} -o {bridge.name} -j ACCEPT" for t in bridge.trusted]
            filters += trusted
        for bridge in bridges:
            if bridge.internal:
                filters.append(f"{forward} -i {bridge.name} -j DROP")
                filters.append(f"{forward} -o {bridge.name} -j DROP")
        for bridge in bridges:
            into = f"{forward} -o {bridge.name}"
            filters.append(f"{into} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT")
        filters.append(f"{forward} -j {self._name}-OPEN")
        for bridge in bridges:
            filters += [f"{forward} -i {o.name} -o {bridge.name} -j DROP" for o in bridges]
        for bridge in bridges:
            if version in bridge.routed:
                icmp = "icmp" if version == 4 else "icmpv6"
                filters.append(f"{forward} -o {bridge.name} -p {icmp} -j ACCEPT")
            verdict = "ACCEPT" if version in bridge.open else "DROP"
            filters.append(f"{forward} -o {bridge.name} -j {verdict}")
        filters += [f"{forward} -i {bridge.name} -j ACCEPT" for bridge in bridges]
        return lines

    def _change(self, operation: str, ports: Sequence[Port]) -> None:
        for version in iptables.VERSIONS:
            lines: Lines = {"nat": [], "filter": []}
            for port in ports:
                if _version(port) == version:
                    table, line = self._port(operation, port)
                    lines[table].append(line)
            iptables.restore(version, lines)

    def _port(self, operation: str, translation: Port) -> tuple[str, str]:
        """The table and the line for it."""
        if isinstance(translation, Opening):
            source = f"-s {translation.source} " if translation.source else ""
            return "filter", (
                f"{operation} {self._name}-OPEN {source}-d {translation.ip}"
                f" -p {translation.protocol} --dport {translation.port} -j ACCEPT"
            )
        where = f"-d {translation.host_ip} " if translation.host_ip else ""
        target = f"[{translation.ip}]" if ":" in translation.ip else translation.ip
        # Rules for one address come before those for all.
        chain = f"{self._name}-PORTS"
        if operation == "-A" and translation.host_ip:
            operation = "-I"
        return "nat", (
            f"{operation} {chain} {where}-p {translation.protocol}"
            f" --dport {translation.host_port} -j DNAT --to-destination {target}:{translation.port}"
        )


def _parent(line: str) -> str:
    return line.split()[1]


def _version(port: Port) -> int:
    return ipaddress.ip_address(port.ip).version


def _of(subnets: Sequence[str], version: int) -> list[str]:
    return [subnet for subnet in subnets if ipaddress.ip_network(subnet).version == version]
