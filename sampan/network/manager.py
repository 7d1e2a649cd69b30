"""The networks of one daemon, and the containers on them.

Example::

    manager = NetworkManager(networks, endpoints, settings=NetworkSettings(run_dir=run))
    await manager.start(running={"4f1c…"})            # kernel state made equal to the records
    network = await manager.create(NetworkConfig(name="back"))
    sandbox = await manager.prepare(SandboxRequest(container_id=…, endpoints=[…], ports=[…]))
    …spawn with sandbox.interfaces, sandbox.hold_fds, sandbox.services…
    await manager.release(container_id)               # after its exit, or when the spawn failed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Collection as Ids
from pathlib import Path

import msgspec

from sampan.network.types import (
    Collection,
    Endpoint,
    EndpointConfig,
    Network,
    NetworkConfig,
    NetworkEvent,
    PortBinding,
    Sandbox,
    SandboxRequest,
)


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon's part of the configuration.

    ``bridge_name`` and ``table_name`` default to ``sampan0`` and ``sampan`` for the default run
    directory and to names derived from the run directory otherwise, so that several daemons share
    a machine.  ``bip`` is the default bridge's address in CIDR notation; chosen from the pools when
    empty.  ``address_pools`` are ``(base, prefix length of a network)``.
    """

    run_dir: str
    bridge_name: str = ""
    table_name: str = ""
    bip: str = ""
    mtu: int = 0
    address_pools: list[tuple[str, int]] = []
    default_host_ip: str = ""
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    ip_forward: bool = True
    icc: bool = True
    resolv_conf: str = "/etc/resolv.conf"


class NetworkManager:
    """Create, list and remove networks; attach containers to them.

    Raises :class:`~sampan.errors.NotFound`, :class:`~sampan.errors.Conflict`,
    :class:`~sampan.errors.InvalidParameter`, :class:`~sampan.errors.Forbidden` (predefined
    networks) with Docker's wording.
    """

    def __init__(
        self,
        networks: Collection[Network],
        endpoints: Collection[Endpoint],
        settings: NetworkSettings,
        on_event: Callable[[NetworkEvent], None] | None = None,
    ) -> None:
        raise NotImplementedError

    async def start(self, running: Ids[str]) -> None:
        """Make the kernel agree with the records, idempotently.

        ``running`` are the ids of the containers that are still running; what other containers
        left behind (endpoints, ports, rules) is removed.  Makes the default networks ``bridge``,
        ``host`` and ``none``.
        """
        raise NotImplementedError

    async def close(self, remove_all: bool = False) -> None:
        """Stop watching.  With ``remove_all`` also delete our bridges and rules from the kernel."""
        raise NotImplementedError

    async def create(self, config: NetworkConfig) -> Network:
        """Make a network; Conflict if the name is taken or the subnet overlaps."""
        raise NotImplementedError

    def get(self, reference: str) -> Network:
        """The network of this id, name or unique id prefix; NotFound "network X not found"."""
        raise NotImplementedError

    def list(self) -> Sequence[Network]:
        """All networks, predefined ones included, oldest first."""
        raise NotImplementedError

    def endpoints(self, network_id: str) -> Sequence[Endpoint]:
        """The running containers on a network."""
        raise NotImplementedError

    def container_endpoints(self, container_id: str) -> Sequence[Endpoint]:
        """The networks that a running container is on, the one with the default route first."""
        raise NotImplementedError

    async def remove(self, reference: str) -> Network:
        """Delete a network; Forbidden if predefined or with active endpoints (Docker's text)."""
        raise NotImplementedError

    async def prepare(self, request: SandboxRequest) -> Sandbox:
        """Allocate addresses, reserve and publish ports, compose the files.  All or nothing.

        Needs no network namespace.  Conflict "Bind for 0.0.0.0:8080 failed: port is already
        allocated".
        """
        raise NotImplementedError

    async def release(self, container_id: str) -> None:
        """Free what a container held: addresses, ports, names.  Idempotent."""
        raise NotImplementedError

    async def connect(
        self,
        request: SandboxRequest,
        config: EndpointConfig,
        netns: Path,
    ) -> Sandbox:
        """Put a running container on one more network.

        ``request`` describes the container as at its start (its ``endpoints`` are ignored: the
        recorded ones count), ``netns`` is ``/proc/PID/ns/net``.  The returned files are the new
        contents of hosts and resolv.conf; ``interfaces`` and ``services`` are complete lists, for a
        restart by the keeper.
        """
        raise NotImplementedError

    async def disconnect(self, container_id: str, reference: str, netns: Path | None) -> None:
        """Take a running container off a network.  NotFound when it is not on it."""
        raise NotImplementedError

    def rename(self, container_id: str, new_name: str) -> None:
        """Answer to the new name from now on."""
        raise NotImplementedError

    def published(self, container_id: str) -> Sequence[PortBinding]:
        """The resolved published ports of a running container."""
        raise NotImplementedError
