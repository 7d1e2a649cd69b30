"""From a network and a wish to an endpoint: addresses, names and the interface."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable, Sequence

import msgspec

from sampan.errors import Forbidden, InvalidParameter, NotFound
from sampan.network import definition, ipam
from sampan.network.types import Endpoint, EndpointConfig, Network, PortBinding, SandboxRequest
from sampan.runtime.interfaces import Interface, Route

SHORT_ID = 12


class Addresses:
    """The allocators of one network, one for each pool."""

    def __init__(self, network: Network) -> None:
        self._pools = [
            (ipaddress.ip_network(pool.subnet).version, ipam.Allocator(pool), pool.gateway)
            for pool in network.pools
            if not network.config_only
        ]

    def take(self, version: int, wanted: str) -> tuple[str, int, str]:
        """(address, prefix length, gateway) of the family; three empty values if the network has
        no pool of it.  Raises Forbidden when there is no free address or the wanted one is taken.
        """
        pools = [entry for entry in self._pools if entry[0] == version]
        if wanted:
            return self._take_this(pools, wanted)
        for index, (_, allocator, gateway) in enumerate(pools):
            try:
                return allocator.take(), allocator.subnet.prefixlen, gateway
            except Forbidden:
                if index == len(pools) - 1:
                    raise
        return "", 0, ""

    def _take_this(
        self, pools: Sequence[tuple[int, ipam.Allocator, str]], wanted: str
    ) -> tuple[str, int, str]:
        address = ipam.parse_address(wanted)
        for _, allocator, gateway in pools:
            if address in allocator.subnet:
                return allocator.take_this(wanted), allocator.subnet.prefixlen, gateway
        raise InvalidParameter(f"no configured subnet or ip-range contain the IP address {wanted}")

    def restore(self, endpoint: Endpoint) -> None:
        for address in (endpoint.ip, endpoint.ip6):
            for allocator in self._of(address):
                allocator.restore(address)

    def free(self, endpoint: Endpoint, *, used: bool) -> None:
        for address in (endpoint.ip, endpoint.ip6):
            for allocator in self._of(address):
                allocator.free(address, used=used)

    def _of(self, address: str) -> Iterable[ipam.Allocator]:
        if address:
            parsed = ipaddress.ip_address(address)
            for _, allocator, _ in self._pools:
                if parsed in allocator.subnet:
                    yield allocator
                    return


def make(
    network: Network,
    wish: EndpointConfig,
    request: SandboxRequest,
    addresses: Addresses,
    *,
    mtu: int,
    name: str,
    ipv6_kernel: bool,
) -> Endpoint:
    """Take addresses and describe the endpoint, without a default route: that is for
    :func:`with_routes` to give when all endpoints of the container are known.

    ``name`` is the interface's name inside.  Raises before anything is taken, or gives it back.
    """
    mac = definition.check_mac(wish.mac) if wish.mac else ""
    _check_static(network, wish)
    sysctls = _sysctls(wish.driver_options)
    name = wish.driver_options.get(definition.OPTION_ENDPOINT_IFNAME, name)
    ip, prefix_len, gateway = addresses.take(4, wish.ip)
    try:
        ip6, prefix_len6, gateway6 = addresses.take(6, wish.ip6)
    except BaseException:
        addresses.free(_bare(network, request, ip, ""), used=False)
        raise
    if not mac and network.driver != "ipvlan" and (ip or ip6):
        mac = ipam.mac_of(ip or ip6)
    if not ip6 and ipv6_kernel:
        sysctls["ipv6/conf/IFNAME/disable_ipv6"] = "1"
    identity = secrets.token_hex(32)
    interface = Interface(
        name=name,
        host_name="veth" + identity[:7],
        kind={"bridge": "veth"}.get(network.driver, network.driver),
        bridge=network.bridge,
        parent=network.options.get("parent", "") if network.driver != "bridge" else "",
        mode=""
        if network.driver == "bridge"
        else definition.link_mode(network.driver, network.options),
        mac=mac,
        addresses=[
            *([f"{ip}/{prefix_len}"] if ip else []),
            *([f"{ip6}/{prefix_len6}"] if ip6 else []),
            *(_link_local(address) for address in wish.link_local_ips),
        ],
        mtu=mtu,
        isolated=network.driver == "bridge" and not definition.bridge_options(network.options).icc,
        sysctls=sysctls,
    )
    return Endpoint(
        id=identity,
        container_id=request.container_id,
        container_name=request.container_name,
        network_id=network.id,
        network_name=network.name,
        ip=ip,
        prefix_len=prefix_len,
        gateway="" if network.internal else gateway,
        ip6=ip6,
        prefix_len6=prefix_len6,
        gateway6="" if network.internal else gateway6,
        mac=mac,
        link_local_ips=list(wish.link_local_ips),
        aliases=list(wish.aliases),
        links=list(wish.links),
        dns_names=dns_names(request.container_name, request.container_id, request, wish.aliases),
        driver_options=dict(wish.driver_options),
        gateway_priority=wish.gateway_priority,
        interface=interface,
    )


def without_interface(network: Network, request: SandboxRequest) -> Endpoint:
    """The endpoint on ``host`` or ``none``."""
    return _bare(network, request, "", "")


def _bare(network: Network, request: SandboxRequest, ip: str, ip6: str) -> Endpoint:
    return Endpoint(
        id=secrets.token_hex(32),
        container_id=request.container_id,
        container_name=request.container_name,
        network_id=network.id,
        network_name=network.name,
        ip=ip,
        ip6=ip6,
    )


def dns_names(
    container_name: str, container_id: str, request: SandboxRequest | None, aliases: Sequence[str]
) -> list[str]:
    """All names that a container answers to: its name, aliases, short id and host name."""
    hostname = request.hostname if request is not None else ""
    names = [container_name, *aliases, container_id[:SHORT_ID], hostname]
    return list(dict.fromkeys(name for name in names if name))


def with_routes(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """The same endpoints with the default routes on the interfaces that are to carry them, and the
    one with the (IPv4, else IPv6) route first.

    The highest gateway priority wins, then the first name (Docker's rule).
    """
    order = sorted(endpoints, key=lambda e: (-e.gateway_priority, e.network_name))
    winner4 = next((e.id for e in order if e.gateway and e.interface), "")
    winner6 = next((e.id for e in order if e.gateway6 and e.interface), "")
    routed = [_routed(e, e.id == winner4, e.id == winner6) for e in endpoints]
    first = winner4 or winner6
    return sorted(routed, key=lambda e: e.id != first)


def _routed(endpoint: Endpoint, carries4: bool, carries6: bool) -> Endpoint:
    interface = endpoint.interface
    if interface is None:
        return endpoint
    if interface.kind == "ipvlan" and interface.mode.startswith("l3"):
        # Layer 3 has no neighbours, so no gateway: all is on the link.
        carried = [("0.0.0.0/0", carries4), ("::/0", carries6)]
        routes = [Route(destination=everything) for everything, carries in carried if carries]
        interface = msgspec.structs.replace(interface, routes=routes)
        return msgspec.structs.replace(endpoint, interface=interface)
    interface = msgspec.structs.replace(
        interface,
        gateway=endpoint.gateway if carries4 else "",
        gateway6=endpoint.gateway6 if carries6 else "",
    )
    return msgspec.structs.replace(endpoint, interface=interface)


def with_ports(endpoint: Endpoint, bindings: Sequence[PortBinding]) -> Endpoint:
    """The endpoint with these published ports."""
    interface = endpoint.interface
    if interface is not None and interface.kind == "veth":
        interface = msgspec.structs.replace(interface, hairpin=bool(bindings))
    return msgspec.structs.replace(endpoint, interface=interface, ports=list(bindings))


def moved_ports(before: Sequence[Endpoint], after: Sequence[Endpoint]) -> list[Endpoint]:
    """The published ports belong to the endpoint with the default route."""
    bindings = [binding for endpoint in before for binding in endpoint.ports]
    return [
        with_ports(endpoint, bindings if index == 0 else []) for index, endpoint in enumerate(after)
    ]


def _check_static(network: Network, wish: EndpointConfig) -> None:
    if (wish.ip or wish.ip6) and network.name == "bridge":
        raise InvalidParameter(
            "user specified IP address is supported on user defined networks only"
        )
    if wish.ip and not network.enable_ipv4:
        raise InvalidParameter(f"the network {network.name} has no IPv4: --ip cannot be used")
    if wish.ip6 and not network.enable_ipv6:
        raise InvalidParameter(f"the network {network.name} has no IPv6: --ip6 cannot be used")
    for option in wish.driver_options:
        if option not in (
            definition.OPTION_ENDPOINT_SYSCTLS,
            definition.OPTION_ENDPOINT_IFNAME,
        ):
            raise InvalidParameter(f"the driver {network.driver} has no endpoint option {option!r}")


def _link_local(address: str) -> str:
    parsed = ipam.parse_address(address)
    if not parsed.is_link_local:
        raise InvalidParameter(f"{address} is not a link-local address")
    return f"{parsed}/{16 if parsed.version == 4 else 64}"


def _sysctls(options: dict[str, str]) -> dict[str, str]:
    """``net.ipv4.conf.IFNAME.log_martians=1,…`` as keys below /proc/sys/net."""
    found = {}
    for entry in filter(None, options.get(definition.OPTION_ENDPOINT_SYSCTLS, "").split(",")):
        key, equals, value = entry.partition("=")
        # Docker's client writes options in lower case.
        parts = ["IFNAME" if part == "ifname" else part for part in key.strip().split(".")]
        if not equals or parts[0] != "net" or "IFNAME" not in parts or "" in parts or ".." in key:
            raise InvalidParameter(f"invalid endpoint sysctl {entry!r}: it is net.….IFNAME.…=value")
        found["/".join(parts[1:])] = value
    return found


def find(endpoints: Iterable[Endpoint], network: Network) -> Endpoint:
    for endpoint in endpoints:
        if endpoint.network_id == network.id:
            return endpoint
    raise NotFound(f"the container is not connected to the network {network.name}")
