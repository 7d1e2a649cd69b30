"""What a container gets beside its interfaces: files, the resolver, the relay of ports."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path

from sampan.errors import InvalidParameter
from sampan.network import files
from sampan.network.firewall import Opening, Port, Translation
from sampan.network.ipam import parse_address
from sampan.network.names import NamesDirectory
from sampan.network.ports import Reservation
from sampan.network.types import Endpoint, SandboxRequest
from sampan.runtime.types import ServiceRequest

RESOLVER_SERVICE = "sampan.network.dns:start"
RELAY_SERVICE = "sampan.network.relay:start"
_ANY = ("0.0.0.0", "::")


class Resolution:
    """The daemon's settings of name resolution, and what they make of a container's."""

    def __init__(
        self,
        resolv_conf: Path,
        names: NamesDirectory,
        *,
        dns: Sequence[str],
        search: Sequence[str],
        options: Sequence[str],
    ) -> None:
        self._path = resolv_conf
        self._names = names
        self._dns = list(dns)
        self._search = list(search)
        self._options = list(options)

    def host(self) -> files.ResolverConfig:
        try:
            return files.parse_resolv_conf(self._path.read_text(errors="replace"))
        except OSError:
            return files.ResolverConfig()

    def compose(
        self, request: SandboxRequest, endpoints: Sequence[Endpoint]
    ) -> tuple[bytes, list[ServiceRequest]]:
        """The resolv.conf and the resolver service, if the container needs one.

        It needs one on a user-made network, and where the host's resolvers all listen on the
        host's own loopback, which the container cannot reach but its keeper can.
        """
        for server in request.dns:
            parse_address(server)
        host = self.host()
        explicit = list(request.dns) or self._dns
        search = list(request.dns_search) or self._search or host.search
        options = list(request.dns_options) or self._options or host.options
        if request.mode == "host":
            servers = explicit or host.servers
            return self._render(servers, search, options), []
        reachable = [s for s in explicit or host.servers if explicit or not files.is_loopback(s)]
        if not explicit and not any(endpoint.ip6 for endpoint in endpoints):
            reachable = [server for server in reachable if not files.is_ipv6(server)]
        networked = [endpoint for endpoint in endpoints if endpoint.interface is not None]
        embedded = any(endpoint.network_name != "bridge" for endpoint in networked)
        if not networked:
            return self._render(explicit or host.servers, search, options), []
        if not embedded and (reachable or not host.servers):
            return self._render(reachable, search, options), []
        if not any(option.startswith("ndots:") for option in options):
            options = [*options, "ndots:0"]
        service = ServiceRequest(
            name=RESOLVER_SERVICE,
            config={
                "directory": str(self._names.directory),
                "container": str(self._names.container_file(request.container_id)),
                "servers": explicit,
                "resolv_conf": str(self._path),
            },
        )
        return self._render([files.EMBEDDED_RESOLVER], search, options), [service]

    def _render(self, servers: list[str], search: list[str], options: list[str]) -> bytes:
        return files.resolv_conf(
            files.ResolverConfig(servers=servers, search=search, options=options)
        )


def hosts(
    request: SandboxRequest,
    endpoints: Sequence[Endpoint],
    links: Iterable[tuple[str, Sequence[str]]],
    gateway: Sequence[str],
    host_file: bytes,
) -> bytes:
    """The hosts file.  ``links`` are the linked containers' (address, names), ``gateway`` the
    addresses that ``host-gateway`` stands for, ``host_file`` the host's own (for host mode)."""
    extra: list[tuple[str, Sequence[str]]] = []
    for entry in request.extra_hosts:
        extra += extra_host(entry, gateway)
    extra += links
    if request.mode == "host":
        return files.host_network_hosts(host_file, extra)
    own = [
        (address, request.hostname, request.domainname)
        for endpoint in endpoints
        for address in (endpoint.ip, endpoint.ip6)
        if address
    ]
    return files.hosts(own, extra)


def extra_host(entry: str, gateway: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """``name:address`` or ``name=address``; several lines when host-gateway has two families."""
    separator = "=" if "=" in entry else ":"
    name, found, address = entry.partition(separator)
    if not found or not name or not address:
        raise InvalidParameter(f"bad format for add-host: {entry!r}: it is NAME:ADDRESS")
    if address == "host-gateway":
        if not gateway:
            raise InvalidParameter(
                "unable to derive the IP value for host-gateway: the default bridge has no address"
            )
        return [(each, [name]) for each in gateway]
    return [(str(parse_address(address.strip("[]"))), [name])]


def port_rules(endpoint: Endpoint) -> list[Port]:
    """The published ports and the links of an endpoint as the firewall takes them."""
    found: list[Port] = list(endpoint.openings)
    for binding in endpoint.ports:
        address = ipaddress.ip_address(binding.host_ip)
        target = endpoint.ip if address.version == 4 else endpoint.ip6
        if not binding.host_port:
            if target:
                found.append(
                    Opening(protocol=binding.protocol, ip=target, port=binding.container_port)
                )
            continue
        # The source ::1 cannot be routed away from the loopback.
        if target and not (address.version == 6 and address.is_loopback):
            found.append(
                Translation(
                    protocol=binding.protocol,
                    host_ip="" if binding.host_ip in _ANY else binding.host_ip,
                    host_port=binding.host_port,
                    ip=target,
                    port=binding.container_port,
                )
            )
    return found


def relay(endpoint: Endpoint, reservations: Sequence[Reservation]) -> list[ServiceRequest]:
    """The service that relays what arrives at listening sockets; none when there is none.

    ``fd`` of each entry is the position of the socket among those that the sandbox holds.
    """
    entries: list[dict[str, object]] = []
    held = [r for r in reservations if r.socket is not None]
    for position, reservation in enumerate(held):
        binding = reservation.binding
        relayed = ":" in binding.host_ip or not endpoint.ip
        if relayed and binding.protocol in ("tcp", "udp"):
            entries.append(
                {
                    "fd": position,
                    "protocol": binding.protocol,
                    "address": endpoint.ip or endpoint.ip6,
                    "port": binding.container_port,
                }
            )
    return [ServiceRequest(name=RELAY_SERVICE, config={"relays": entries})] if entries else []
