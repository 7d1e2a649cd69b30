"""The networks' records and their links on the host."""

from __future__ import annotations

import builtins
import fcntl
import ipaddress
import os
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sampan.errors import Conflict, InvalidParameter, NotFound, SampanError
from sampan.linux import rtnetlink
from sampan.network import bridge, definition, ipam
from sampan.network.firewall import BridgeRules
from sampan.network.settings import NetworkSettings
from sampan.network.types import Collection, Network, NetworkConfig, Pool

_SUBNET_LOCK = Path("/run/sampan-subnets.lock")
_PORT_PREFIX = "veth"


class Networks:
    """Records of networks by id and name, and the making of their links.

    ``ipv6_kernel`` tells whether the kernel has IPv6 at all.
    """

    def __init__(self, collection: Collection[Network], settings: NetworkSettings) -> None:
        self._collection = collection
        self._settings = settings
        self._networks: dict[str, Network] = {}
        self._route = rtnetlink.open_socket()
        self._mtu = settings.mtu or bridge.uplink_mtu(self._route)
        self.ipv6_kernel = Path("/proc/sys/net/ipv6").exists()

    def close(self) -> None:
        self._route.close()

    # Records

    def load(self) -> None:
        """Read the records and make those of the predefined networks that are missing."""
        self._networks = {network.id: network for network in self._collection.all()}
        names = {network.name: network for network in self._networks.values()}
        for name, driver in (("host", "host"), ("none", "null")):
            if name not in names:
                self._keep(definition.predefined(name, driver))
        default = names.get("bridge")
        if default is None or not self._fits(default):
            with _subnet_choice():
                self._keep(self._default_bridge(default))
                self.make_links(self.get("bridge"))

    def _fits(self, network: Network) -> bool:
        bip = self._settings.bip
        pool = network.pools[0]
        address = f"{pool.gateway}/{ipaddress.ip_network(pool.subnet).prefixlen}"
        wanted = self._default_options()
        return (
            (not bip or bip == address)
            and pool.ip_range == self._settings.fixed_cidr
            and network.options == wanted
        )

    def _default_options(self) -> dict[str, str]:
        return {
            definition.OPTION_DEFAULT_BRIDGE: "true",
            definition.OPTION_ICC: str(self._settings.icc).lower(),
            definition.OPTION_MASQUERADE: "true",
            definition.OPTION_HOST_BINDING: self._settings.default_host_ip or "0.0.0.0",
            definition.OPTION_BRIDGE_NAME: self._settings.bridge,
            definition.OPTION_MTU: str(self._mtu),
        }

    def _default_bridge(self, old: Network | None) -> Network:
        if self._settings.bip:
            try:
                address = ipaddress.ip_interface(self._settings.bip)
            except ValueError:
                raise InvalidParameter(
                    f"invalid bip {self._settings.bip!r}: it is an address with its prefix length"
                ) from None
            pool = Pool(subnet=str(address.network), gateway=str(address.ip))
        elif old is not None:
            pool = old.pools[0]
        elif self._settings.fixed_cidr:
            pool = ipam.complete_pool(Pool(subnet=self._settings.fixed_cidr))
        else:
            pool = ipam.complete_pool(Pool(subnet=self._free_subnet([self._settings.bridge])))
        window = self._settings.fixed_cidr
        pool = ipam.complete_pool(msgspec.structs.replace(pool, ip_range=window))
        if old is not None and old.bridge != self._settings.bridge:
            bridge.remove_link(self._route, old.bridge)
        made = Network(
            id=old.id if old is not None else os.urandom(32).hex(),
            name="bridge",
            driver="bridge",
            created=old.created if old is not None else definition.now(),
            pools=[pool],
            options=self._default_options(),
            bridge=self._settings.bridge,
        )
        if old is not None and _addresses(old) != _addresses(made):
            bridge.remove_link(self._route, made.bridge)
        return made

    def _free_subnet(self, ignoring: Sequence[str]) -> str:
        host = bridge.taken_subnets(self._route, ignoring)
        return ipam.free_subnet(self._bases(), [*self._own_subnets(), *host])

    def _bases(self) -> Sequence[tuple[str, int]]:
        return self._settings.address_pools or ipam.DEFAULT_POOLS

    def _own_subnets(self) -> builtins.list[ipam.IPNetwork]:
        return [
            ipaddress.ip_network(pool.subnet)
            for network in self._networks.values()
            if not network.config_only
            for pool in network.pools
        ]

    def define(self, config: NetworkConfig) -> Network:
        """Check the wish, choose what it leaves open, and record it."""
        definition.check_name(config)
        if any(network.name == config.name for network in self._networks.values()):
            raise Conflict(f"network with name {config.name} already exists")
        if config.config_only:
            network = definition.configuration(config)
            self._keep(network)
            return network
        if config.config_from:
            config = definition.configured(config, self._configuration(config.config_from))
        definition.check(config)
        wanted_bridge = config.options.get(definition.OPTION_BRIDGE_NAME)
        if wanted_bridge and self.by_bridge(wanted_bridge) is not None:
            raise Conflict(f"the bridge {wanted_bridge} belongs to another network")
        with _subnet_choice():
            network = definition.define(
                config,
                bases=self._bases(),
                ula=definition.unique_prefix(_machine() + self._settings.mark),
                own=self._own_subnets(),
                host=bridge.taken_subnets(self._route, [wanted_bridge] if wanted_bridge else []),
            )
            if network.driver != "bridge" and not network.options.get("parent"):
                options = {**network.options, "parent": bridge.DUMMY_PREFIX + network.id[:12]}
                network = msgspec.structs.replace(network, options=options)
            kept = bridge.addresses_of(self._route, wanted_bridge) if wanted_bridge else None
            if kept is not None:
                network = msgspec.structs.replace(network, borrowed=True, kept=kept)
            self._keep(network)
            # While the lock is held, so that the next chooser sees our subnet on the host.
            try:
                self.make_links(network)
            except BaseException:
                self.forget(network)
                self.remove_links(network)
                raise
        return network

    def _configuration(self, name: str) -> Network:
        for network in self._networks.values():
            if network.name == name:
                return network
        raise NotFound(f"configuration network {name} not found")

    def is_used(self, network: Network) -> bool:
        """Whether a network has its configuration from this one."""
        return network.config_only and any(
            other.config_from == network.name for other in self._networks.values()
        )

    def _keep(self, network: Network) -> None:
        self._collection.put(network)
        self._networks[network.id] = network

    def forget(self, network: Network) -> None:
        self._collection.delete(network.id)
        self._networks.pop(network.id, None)

    def all(self) -> builtins.list[Network]:
        return sorted(self._networks.values(), key=lambda network: network.created)

    def find(self, network_id: str) -> Network | None:
        return self._networks.get(network_id)

    def by_id(self, network_id: str) -> Network:
        return self._networks[network_id]

    def by_bridge(self, name: str) -> Network | None:
        for network in self._networks.values():
            if network.bridge == name:
                return network
        return None

    def get(self, reference: str) -> Network:
        """By id, then name, then unique id prefix."""
        found = self._networks.get(reference)
        if found is not None:
            return found
        for network in self._networks.values():
            if network.name == reference:
                return network
        matching = [n for n in self._networks.values() if reference and n.id.startswith(reference)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise InvalidParameter(
                f"network {reference} is ambiguous ({len(matching)} matches found on ID prefix)"
            )
        raise NotFound(f"network {reference} not found")

    # Links

    def mtu(self, network: Network) -> int:
        return definition.mtu_option(network.options) or self._mtu

    def make_links(self, network: Network) -> builtins.list[str]:
        """Make or complete the network's links on the host; says what was done."""
        if network.driver == "bridge":
            return bridge.ensure_bridge(
                self._route,
                network.bridge,
                addresses=_addresses(network),
                mtu=self.mtu(network),
                ipv6=network.enable_ipv6,
                proxy=not definition.bridge_options(network.options).icc,
            )
        if network.driver in ("macvlan", "ipvlan"):
            parent = network.options["parent"]
            if bridge.ensure_parent(self._route, parent):
                return [f"made the parent link {parent}"]
        return []

    def remove_links(self, network: Network) -> None:
        """Delete what :meth:`make_links` made."""
        if network.borrowed:
            ours = set(_addresses(network)) - set(network.kept)
            bridge.remove_addresses(self._route, network.bridge, sorted(ours))
        elif network.bridge:
            bridge.remove_link(self._route, network.bridge)
        parent = network.options.get("parent", "")
        if network.driver in ("macvlan", "ipvlan") and parent.startswith(bridge.DUMMY_PREFIX):
            bridge.remove_link(self._route, parent)

    def remove_stale_ports(self, current: AbstractSet[str]) -> bool:
        """Delete the ports of our bridges that no running container has; whether there was one."""
        stale = self._ports() - current
        for name in stale:
            self._route.request([rtnetlink.delete_link(name, missing_ok=True)])
        return bool(stale)

    def differences(self, current: AbstractSet[str]) -> builtins.list[str]:
        """How the host's links differ from the records; ``current`` are the ports that running
        containers should have."""
        present = {link.name for link in rtnetlink.links(self._route)}
        held = {str(address.interface) for address in rtnetlink.addresses(self._route)}
        found = []
        for network in self.all():
            if network.bridge and network.bridge not in present:
                found.append(f"the bridge {network.bridge} of network {network.name} is missing")
            for address in _addresses(network) if network.bridge else ():
                if address not in held:
                    found.append(f"the bridge {network.bridge} lacks its address {address}")
        ports = self._ports()
        found += [f"the interface {name} belongs to no container" for name in ports - current]
        found += [f"the interface {name} of a container is missing" for name in current - ports]
        return found

    def _ports(self) -> set[str]:
        """The host ends on our bridges."""
        bridges = {network.bridge for network in self._networks.values() if network.bridge}
        links = rtnetlink.links(self._route)
        ours = {link.ifindex for link in links if link.name in bridges}
        return {
            link.name
            for link in links
            if link.master in ours and link.kind == "veth" and link.name.startswith(_PORT_PREFIX)
        }

    def rules(self, network: Network) -> BridgeRules:
        """What the firewall is to hold for a bridge network."""
        options = definition.bridge_options(network.options)
        modes = options.modes
        subnets = tuple(pool.subnet for pool in network.pools)
        leaving = [
            (subnet, version)
            for subnet in subnets
            if (version := ipaddress.ip_network(subnet).version)
            and modes[version] in ("nat", "nat-unprotected")
            and options.masquerade
            and not network.internal
        ]
        return BridgeRules(
            name=network.bridge,
            subnets=subnets,
            masqueraded=tuple(s for s, version in leaving if version not in options.sources),
            sources=tuple(
                (subnet, options.sources[version])
                for subnet, version in leaving
                if version in options.sources
            ),
            icc=options.icc,
            internal=network.internal,
            trusted=() if network.internal else options.trusted,
            open=tuple(v for v, mode in modes.items() if mode == "nat-unprotected"),
            routed=tuple(v for v, mode in modes.items() if mode == "routed"),
        )

    def host_gateway(self) -> builtins.list[str]:
        """The addresses that ``host-gateway`` stands for: those of the default bridge."""
        return [pool.gateway for pool in self.get("bridge").pools if pool.gateway]


def _addresses(network: Network) -> builtins.list[str]:
    """The bridge's own addresses in CIDR notation: the gateways that the host is to be."""
    options = definition.bridge_options(network.options)
    without = {version for version, mode in options.modes.items() if mode == "isolated"}
    if options.inhibit4:
        without.add(4)
    return [
        f"{pool.gateway}/{subnet.prefixlen}"
        for pool in network.pools
        if pool.gateway and (subnet := ipaddress.ip_network(pool.subnet)).version not in without
    ]


@contextmanager
def _subnet_choice() -> Iterator[None]:
    """One daemon of this machine chooses a subnet at a time, until it is on a bridge."""
    try:
        fd = os.open(_SUBNET_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SampanError(f"cannot lock the choice of subnets: {error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""
