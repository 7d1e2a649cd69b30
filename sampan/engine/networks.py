"""Networks as users see them, and containers put on them and taken off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from sampan.engine import endpoints
from sampan.engine.containers import Containers
from sampan.engine.events import Events
from sampan.engine.filters import EVERYTHING, Filters
from sampan.engine.images import timestamp_ns
from sampan.engine.state import Container
from sampan.engine.types import EndpointSettings
from sampan.errors import Conflict, Forbidden, InvalidParameter, NotFound
from sampan.network.manager import NetworkManager
from sampan.network.types import Endpoint, Network, NetworkConfig

PREDEFINED = ("bridge", "host", "none")

NetworkList = list[Network]
Live = Callable[[Container, Network, EndpointSettings], Awaitable[None]]
"""Puts a running container on a network, or takes it off."""


class Networks:
    """Creates, lists, removes networks; connects containers.

    :param connect_live: puts a running container on a network: what is needed to know for it
        belongs to the containers.
    """

    def __init__(
        self,
        manager: NetworkManager,
        containers: Containers,
        events: Events,
        connect_live: Live,
        disconnect_live: Live,
    ) -> None:
        self._manager = manager
        self._containers = containers
        self._events = events
        self._connect_live = connect_live
        self._disconnect_live = disconnect_live

    def get(self, name: str) -> Network:
        """By name, id or unique prefix of an id.  Raises NotFound."""
        return self._manager.get(name)

    def list(self, filters: Filters = EVERYTHING) -> NetworkList:
        """Networks, oldest first.

        Filters: dangling, driver, id, label, name, scope, type (builtin or custom).
        """
        filters.only("dangling", "driver", "id", "label", "name", "scope", "type")
        dangling = filters.boolean("dangling", False) if "dangling" in filters else None
        kinds = filters.get("type")
        for kind in kinds:
            if kind not in ("builtin", "custom"):
                raise InvalidParameter(f"invalid filter: 'type'='{kind}'")
        return [
            network
            for network in self._manager.list()
            if filters.pattern("name", network.name)
            and filters.pattern("id", network.id)
            and filters.exact("driver", network.driver)
            and filters.exact("scope", network.scope)
            and filters.labels(network.labels)
            and (not kinds or ("builtin" if network.name in PREDEFINED else "custom") in kinds)
            and (dangling is None or dangling == self._dangling(network))
        ]

    def endpoints(self, network: Network) -> Sequence[Endpoint]:
        """The running containers on the network."""
        return self._manager.endpoints(network.id)

    async def create(self, config: NetworkConfig) -> Network:
        """Make a network.  Raises Conflict (name or subnet taken), InvalidParameter, Forbidden."""
        return await self._manager.create(config)

    async def remove(self, name: str) -> Network:
        """Delete a network.  Raises NotFound, Forbidden (predefined, or containers are on it)."""
        return await self._manager.remove(name)

    async def prune(self, filters: Filters, until: int | None = None) -> Sequence[str]:
        """Remove the networks that no running container is on; returns their names.

        Filters: label, label!, until (whose time the caller gives, nanoseconds since the epoch).
        """
        filters.only("label", "label!", "until")
        removed = []
        for network in self.list():
            if network.config_only or not self._dangling(network):
                continue
            if not filters.labels(network.labels) or not filters.no_labels(network.labels):
                continue
            if until is not None and timestamp_ns(network.created) >= until:
                continue
            try:
                await self._manager.remove(network.id)
            except (Conflict, Forbidden, NotFound):
                continue
            removed.append(network.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return removed

    async def connect(self, name: str, container: str, wish: EndpointSettings) -> None:
        """Put a container on a network: now when it runs, and at each start from now on.

        Raises NotFound, Forbidden (already on it, or a network mode that allows none), Conflict.
        """
        network = self.get(name)
        target = self._containers.get(container)
        async with target.lock:
            record = target.record
            _check_connectable(target, network)
            endpoints.check(network.name, wish)
            if network.name in record.networks:
                raise Forbidden(
                    f"endpoint with name {target.name} already exists in network {network.name}"
                )
            wish = msgspec.structs.replace(wish, network_id=network.id)
            if target.running:
                await self._connect_live(target, network, wish)
            else:
                record.networks[network.name] = wish
            self._containers.save(target)

    async def disconnect(self, name: str, container: str, force: bool = False) -> None:
        """Take a container off a network.

        With ``force`` a container that does not exist any more is no error.
        """
        network = self.get(name)
        try:
            target = self._containers.get(container)
        except NotFound:
            if not force:
                raise
            await self._forget(network, container)
            return
        async with target.lock:
            record = target.record
            if network.name == "host":
                raise InvalidParameter(
                    "container cannot be disconnected from host network or connected to host "
                    "network"
                )
            if network.name not in record.networks:
                raise Forbidden(f"container {target.id} is not connected to network {network.name}")
            if target.running:
                await self._disconnect_live(target, network, record.networks[network.name])
            else:
                self._manager.emit("disconnect", network, target.id)
            record.networks.pop(network.name, None)
            self._containers.save(target)

    async def _forget(self, network: Network, container: str) -> None:
        """Free what a container that is gone left on the network."""
        for endpoint in self._manager.endpoints(network.id):
            if container in (endpoint.container_name, endpoint.container_id):
                await self._manager.disconnect(endpoint.container_id, network.id, None)
                return
        raise NotFound(f"No such container: {container}")

    def _dangling(self, network: Network) -> bool:
        return network.name not in PREDEFINED and not self._manager.endpoints(network.id)


def _check_connectable(container: Container, network: Network) -> None:
    mode = container.record.host.network_mode
    networks = container.record.networks
    if mode.startswith("container:"):
        raise InvalidParameter(
            "container sharing network namespace with another container or host cannot be "
            "connected to any other network"
        )
    if mode == "host" or network.name == "host":
        raise InvalidParameter(
            "container cannot be disconnected from host network or connected to host network"
        )
    if "none" in networks or (network.name == "none" and networks):
        raise InvalidParameter(
            "container cannot be connected to multiple networks with one of the networks in "
            "private (none) mode"
        )
    if container.record.state.status in ("removing", "dead"):
        raise Conflict(f"container {container.id} is marked for removal")


def document(
    network: Network, endpoints: Sequence[Endpoint] | None, version: tuple[int, int]
) -> dict[str, Any]:
    """The network as the API shows it; ``endpoints`` None leaves the containers out (lists)."""
    body: dict[str, Any] = {
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": network.scope,
        "Driver": network.driver,
    }
    if version >= (1, 48):
        body["EnableIPv4"] = network.enable_ipv4
    body |= {
        "EnableIPv6": network.enable_ipv6,
        "IPAM": {
            "Driver": network.ipam_driver,
            "Options": network.ipam_options or None,
            "Config": [_pool(pool) for pool in network.pools] or None,
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": network.config_from},
        "ConfigOnly": network.config_only,
        "Containers": {},
        "Options": network.options,
        "Labels": network.labels,
    }
    for endpoint in endpoints or ():
        body["Containers"][endpoint.container_id] = {
            "Name": endpoint.container_name,
            "EndpointID": endpoint.id,
            "MacAddress": endpoint.mac,
            "IPv4Address": f"{endpoint.ip}/{endpoint.prefix_len}" if endpoint.ip else "",
            "IPv6Address": f"{endpoint.ip6}/{endpoint.prefix_len6}" if endpoint.ip6 else "",
        }
    return body


def _pool(pool: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"Subnet": pool.subnet}
    if pool.ip_range:
        shown["IPRange"] = pool.ip_range
    if pool.gateway:
        shown["Gateway"] = pool.gateway
    if pool.aux_addresses:
        shown["AuxiliaryAddresses"] = pool.aux_addresses
    return shown
