"""What a container's sandbox is made of, once its endpoints are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sampan.network import definition, endpoints, ports, sandbox
from sampan.network.firewall import Opening
from sampan.network.members import Members
from sampan.network.names import NamesDirectory
from sampan.network.registry import Networks
from sampan.network.settings import NetworkSettings
from sampan.network.types import Endpoint, Link, Network, PortBinding, Sandbox, SandboxRequest


class Composer:
    """Reserves ports and composes files and services; changes no record and no rule."""

    def __init__(
        self, settings: NetworkSettings, networks: Networks, members: Members, names: NamesDirectory
    ) -> None:
        self._settings = settings
        self._networks = networks
        self._members = members
        self._resolution = sandbox.Resolution(
            Path(settings.resolv_conf),
            names,
            dns=settings.dns,
            search=settings.dns_search,
            options=settings.dns_options,
        )

    def reserve(
        self, endpoint: Endpoint, bindings: Sequence[PortBinding]
    ) -> list[ports.Reservation]:
        """The host's ports for an endpoint.  Raises as :func:`sampan.network.ports.reserve`."""
        network = self._networks.by_id(endpoint.network_id)
        if network.driver != "bridge" or network.internal:
            return []
        options = definition.bridge_options(network.options)
        routed = [version for version, mode in options.modes.items() if mode == "routed"]
        if not endpoint.ip6:
            # What the host would relay from IPv6 is no more to be translated than IPv4 itself.
            routed = [4, 6] if 4 in routed else []
        default = options.host_binding or self._settings.default_host_ip
        return ports.reserve(
            bindings,
            default_host_ip=default,
            ipv6=self._networks.ipv6_kernel,
            listen4=not endpoint.ip,
            routed=routed,
        )

    def compose(
        self,
        request: SandboxRequest,
        made: Sequence[Endpoint],
        reserved: Sequence[ports.Reservation],
    ) -> Sandbox:
        """The whole sandbox but the sockets, which stay the caller's."""
        resolv_conf, services = self._resolution.compose(request, made)
        host_file = b""
        if request.mode == "host":
            path = Path(self._settings.hosts_file)
            host_file = path.read_bytes() if path.exists() else b""
        hosts = sandbox.hosts(
            request,
            made,
            self._linked(request),
            self._networks.host_gateway(),
            host_file,
        )
        if reserved:
            services += sandbox.relay(made[0], reserved)
        return Sandbox(
            endpoints=[*made],
            interfaces=[e.interface for e in made if e.interface is not None],
            ports=[reservation.binding for reservation in reserved],
            services=services,
            hosts=hosts,
            resolv_conf=resolv_conf,
            hold_fds=[],
        )

    def _linked(self, request: SandboxRequest) -> list[tuple[str, Sequence[str]]]:
        """The linked containers on the default bridge, for the hosts file."""
        found: list[tuple[str, Sequence[str]]] = []
        for link in request.links:
            for address in self._addresses_of(link):
                short = link.container_id[: endpoints.SHORT_ID]
                found.append((address, [*dict.fromkeys((link.alias, short, link.name))]))
        return found

    def _addresses_of(self, link: Link) -> list[str]:
        members = self._members.of(link.container_id)
        return [e.ip for e in members if e.network_name == "bridge" and e.ip]

    def openings(self, network: Network, source: str, request: SandboxRequest) -> list[Opening]:
        """What links let through on a default bridge whose containers do not reach each other."""
        if network.name != "bridge" or definition.bridge_options(network.options).icc:
            return []
        return [
            Opening(protocol=protocol, ip=address, port=int(number), source=source)
            for link in request.links
            for address in self._addresses_of(link)
            for number, _, protocol in (port.partition("/") for port in link.ports)
        ]
