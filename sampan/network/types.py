"""The values that networks are described by.

All are frozen msgspec structs; addresses are strings in their canonical form, subnets in CIDR
notation.  ``Network`` and ``Endpoint`` are persisted, the others pass through.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from sampan.network.firewall import Opening
from sampan.runtime.interfaces import Interface
from sampan.runtime.types import ServiceRequest

T = TypeVar("T")


class Collection(Protocol[T]):
    """The part of the metadata store that this package needs: one durable map from id to T."""

    def get(self, id: str) -> T | None: ...

    def put(self, obj: T) -> None: ...

    def delete(self, id: str) -> None: ...

    def all(self) -> list[T]: ...


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """One subnet of a network (Docker's IPAM config).

    ``ip_range`` (inside ``subnet``) limits the addresses handed out; ``gateway`` is the bridge's
    own address; ``aux_addresses`` (name to address) are never handed out.
    """

    subnet: str
    ip_range: str = ""
    gateway: str = ""
    aux_addresses: dict[str, str] = {}


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for in ``network create``.  ``pools`` may be empty or may have empty
    subnets: they are then chosen from the default address pools."""

    name: str
    driver: str = "bridge"
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    ipam_driver: str = "default"
    ipam_options: dict[str, str] = {}
    pools: list[Pool] = []
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    config_only: bool = False
    config_from: str = ""


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network as it stands.  ``created`` is RFC 3339 with nanoseconds, as the API shows it.
    ``borrowed``: the bridge was there before the network and stays after it, with the addresses
    in ``kept``.  ``config_only``: it is only the configuration of the networks that name it in
    ``config_from``."""

    id: str
    name: str
    driver: str
    created: str
    scope: str = "local"
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    ipam_driver: str = "default"
    ipam_options: dict[str, str] = {}
    pools: list[Pool] = []
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    bridge: str = ""
    borrowed: bool = False
    kept: list[str] = []
    config_only: bool = False
    config_from: str = ""


class EndpointConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a container wants to be on one network.  ``network`` is a name, id or id prefix."""

    network: str
    ip: str = ""
    ip6: str = ""
    link_local_ips: list[str] = []
    mac: str = ""
    aliases: list[str] = []
    links: list[str] = []
    driver_options: dict[str, str] = {}
    gateway_priority: int = 0


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A container on a network, while the container runs (Docker's EndpointSettings).

    ``dns_names`` are all the names that the container answers to on this network: its name, its
    short id, its host name and its aliases.  ``openings`` are the ports of linked containers that
    it reaches on a network whose containers otherwise do not reach each other.
    """

    id: str
    container_id: str
    container_name: str
    network_id: str
    network_name: str
    ip: str = ""
    prefix_len: int = 0
    gateway: str = ""
    ip6: str = ""
    prefix_len6: int = 0
    gateway6: str = ""
    mac: str = ""
    link_local_ips: list[str] = []
    aliases: list[str] = []
    links: list[str] = []
    dns_names: list[str] = []
    driver_options: dict[str, str] = {}
    gateway_priority: int = 0
    interface: Interface | None = None
    ports: list[PortBinding] = []
    openings: list[Opening] = []


class PortBinding(msgspec.Struct, frozen=True, kw_only=True):
    """A published port.

    In a request ``host_ip`` may be empty (all addresses of both families), ``host_port`` 0 (an
    ephemeral port; in a result: reached at the container's own address) and ``host_port_end`` the
    end of a range to take a free port from.  In a result all are resolved, one binding an address
    family.
    """

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Another container on the default bridge by the name ``alias``; ``ports`` (``80/tcp``) are
    those that it exposes."""

    container_id: str
    name: str
    alias: str
    ports: list[str] = []


class SandboxRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the network part of starting a container needs to know.

    ``mode`` is ``endpoints`` (own namespace with ``endpoints``, possibly none, as for
    ``--network none``), or ``host``.  A container that joins another one's namespace asks for no
    sandbox and shares the other's files.
    ``links`` are those of the default bridge, resolved by the caller.  ``extra_hosts`` are
    ``name:address``, where the address may be ``host-gateway``.
    """

    container_id: str
    container_name: str
    hostname: str
    domainname: str = ""
    mode: str = "endpoints"
    endpoints: list[EndpointConfig] = []
    ports: list[PortBinding] = []
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    extra_hosts: list[str] = []
    links: list[Link] = []


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: what goes into the keeper's request, the files, and the inspect fields.

    ``hold_fds`` are sockets that reserve the published ports; pass them to the keeper (which keeps
    them open as long as the container runs) and close them after the spawn.  ``services`` that
    serve on one of them name its position in the list as ``fd`` in their configuration.
    """

    endpoints: list[Endpoint]
    interfaces: list[Interface]
    ports: list[PortBinding]
    hold_fds: list[int]
    services: list[ServiceRequest]
    hosts: bytes
    resolv_conf: bytes


class NetworkEvent(msgspec.Struct, frozen=True, kw_only=True):
    """``action`` is create, destroy, connect or disconnect; ``container_id`` for the latter two."""

    action: str
    network_id: str
    network_name: str
    driver: str
    container_id: str = ""
