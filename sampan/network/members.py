"""The endpoints' records: who is on which network, with which addresses and names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from sampan.network import endpoints
from sampan.network.endpoints import Addresses
from sampan.network.names import NamesDirectory
from sampan.network.types import Collection, Endpoint, Network

log = logging.getLogger(__name__)


class Members:
    """Endpoints by container and by network; addresses are taken as long as a record holds them."""

    def __init__(self, collection: Collection[Endpoint], names: NamesDirectory) -> None:
        self._collection = collection
        self._names = names
        self._by_container: dict[str, list[Endpoint]] = {}
        self._by_network: dict[str, dict[str, Endpoint]] = {}
        self._addresses: dict[str, Addresses] = {}
        self._networks: dict[str, Network] = {}

    def load(self, networks: Iterable[Network], running: AbstractSet[str]) -> None:
        """Read the records; delete those of containers that do not run, or of no network."""
        for network in networks:
            self._add_network(network)
        held: dict[str, list[Endpoint]] = {}
        for endpoint in self._collection.all():
            if endpoint.container_id in running and endpoint.network_id in self._networks:
                held.setdefault(endpoint.container_id, []).append(endpoint)
                self._addresses[endpoint.network_id].restore(endpoint)
            else:
                self._collection.delete(endpoint.id)
        for container_id, members in held.items():
            self._index(container_id, endpoints.with_routes(members))
        for network in self._networks.values():
            self._names.add_network(network, self.on(network.id))
        for container_id in self._names.containers():
            if container_id not in self._by_container:
                self._names.remove_container(container_id)

    def add_network(self, network: Network) -> None:
        self._add_network(network)
        self._names.add_network(network)

    def _add_network(self, network: Network) -> None:
        self._networks[network.id] = network
        self._addresses[network.id] = Addresses(network)
        self._by_network.setdefault(network.id, {})

    def remove_network(self, network: Network) -> None:
        for index in (self._networks, self._addresses, self._by_network):
            index.pop(network.id, None)
        self._names.remove_network(network.id)

    def addresses(self, network_id: str) -> Addresses:
        return self._addresses[network_id]

    def on(self, network_id: str) -> list[Endpoint]:
        return list(self._by_network.get(network_id, {}).values())

    def of(self, container_id: str) -> list[Endpoint]:
        return list(self._by_container.get(container_id, ()))

    def everyone(self) -> Iterable[Endpoint]:
        for members in self._by_container.values():
            yield from members

    def host_names(self) -> set[str]:
        """The names of the host ends of all running containers' interfaces on bridges."""
        return {
            endpoint.interface.host_name
            for endpoint in self.everyone()
            if endpoint.interface is not None and endpoint.interface.bridge
        }

    def record(self, container_id: str, made: Sequence[Endpoint]) -> None:
        """Keep the endpoints of a container that had none."""
        for endpoint in made:
            self._collection.put(endpoint)
        self._index(container_id, made)
        self._change_names(container_id, [], made)

    def exchange(self, container_id: str, after: Sequence[Endpoint]) -> None:
        """Put other endpoints in the place of those that a container has; gives back the addresses
        of those that are gone."""
        before = self.of(container_id)
        kept = {endpoint.id for endpoint in after}
        gone = [endpoint for endpoint in before if endpoint.id not in kept]
        for endpoint in after:
            if endpoint not in before:
                self._collection.put(endpoint)
        self._unindex(before)
        self._index(container_id, after)
        for endpoint in gone:
            self._collection.delete(endpoint.id)
        self.give_back(gone, used=True)
        self._change_names(container_id, before, after)

    def drop(self, container_id: str) -> list[Endpoint]:
        """Forget a container; returns the endpoints that it had."""
        before = self.of(container_id)
        if before:
            self._unindex(before)
            self._by_container.pop(container_id, None)
            for endpoint in before:
                self._collection.delete(endpoint.id)
            self.give_back(before, used=True)
            self._change_names(container_id, before, [])
        return before

    def give_back(self, unused: Iterable[Endpoint], *, used: bool = False) -> None:
        """Free the addresses of endpoints that are not recorded (any more); ``used`` if a
        container had them."""
        for endpoint in unused:
            addresses = self._addresses.get(endpoint.network_id)
            if addresses is not None:
                addresses.free(endpoint, used=used)

    def rename(self, container_id: str, new_name: str) -> None:
        renamed = []
        for endpoint in self.of(container_id):
            names = [new_name if n == endpoint.container_name else n for n in endpoint.dns_names]
            renamed.append(
                msgspec.structs.replace(endpoint, container_name=new_name, dns_names=names)
            )
        if renamed:
            self.exchange(container_id, renamed)

    def _index(self, container_id: str, members: Sequence[Endpoint]) -> None:
        self._by_container[container_id] = list(members)
        for endpoint in members:
            self._by_network[endpoint.network_id][endpoint.id] = endpoint

    def _unindex(self, members: Iterable[Endpoint]) -> None:
        for endpoint in members:
            self._by_network.get(endpoint.network_id, {}).pop(endpoint.id, None)

    def _change_names(
        self, container_id: str, before: Sequence[Endpoint], after: Sequence[Endpoint]
    ) -> None:
        """Write the files of the container and of the networks whose names changed."""
        touched: dict[str, None] = {}
        for endpoint in before:
            if endpoint.dns_names and endpoint not in after:
                self._names.remove(endpoint)
                touched[endpoint.network_id] = None
        for endpoint in after:
            if endpoint.dns_names and endpoint not in before:
                self._names.add(endpoint)
                touched[endpoint.network_id] = None
        if any(endpoint.dns_names for endpoint in after):
            self._names.write_container(container_id, after)
        elif any(endpoint.dns_names for endpoint in before):
            self._names.remove_container(container_id)
        for network_id in touched:
            self._names.write_network(network_id)
