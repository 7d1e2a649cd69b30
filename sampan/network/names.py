"""The names that containers find each other by, on files that outlive the daemon.

One file a network, ``ID.json`` in the directory, replaced atomically at every change; one file a
container, ``containers/ID.json``, that says which networks it is on.  The keepers' resolvers read
them again when they change, so that they need neither the daemon nor a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from sampan.network.runfiles import replace
from sampan.network.types import Endpoint, Network


class NetworkNames(msgspec.Struct, frozen=True, kw_only=True):
    """The names of a network (lower case) with their addresses, and who has which address.

    An address in one of ``subnets`` is known here or nowhere.
    """

    name: str
    subnets: list[str]
    names: dict[str, list[str]]
    reverse: dict[str, str]


class ContainerNames(msgspec.Struct, frozen=True, kw_only=True):
    """The networks of a container in the order to look in, and its links: alias to container name,
    by network.  ``forward``: other names may be asked of the world (not from internal networks)."""

    networks: list[str]
    links: dict[str, dict[str, str]] = {}
    forward: bool = True


class NamesDirectory:
    """Writes the files.  Raises :class:`OSError`.

    What it wrote last is kept in memory, so that one container more costs the same on a large
    network as on a small one, but for the writing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._networks: dict[str, NetworkNames] = {}
        (directory / "containers").mkdir(parents=True, exist_ok=True)

    def container_file(self, container_id: str) -> Path:
        return self.directory / "containers" / f"{container_id}.json"

    def add_network(self, network: Network, endpoints: Iterable[Endpoint] = ()) -> None:
        """Begin or begin again with these endpoints."""
        content = NetworkNames(
            name=network.name,
            subnets=[pool.subnet for pool in network.pools if pool.subnet],
            names={},
            reverse={},
        )
        self._networks[network.id] = content
        for endpoint in endpoints:
            _add(content, endpoint)
        self.write_network(network.id)

    def remove_network(self, network_id: str) -> None:
        self._networks.pop(network_id, None)
        self._file(network_id).unlink(missing_ok=True)

    def add(self, endpoint: Endpoint) -> None:
        """Let an endpoint's names be known when the network is next written."""
        _add(self._networks[endpoint.network_id], endpoint)

    def remove(self, endpoint: Endpoint) -> None:
        _remove(self._networks[endpoint.network_id], endpoint)

    def write_network(self, network_id: str) -> None:
        replace(self._file(network_id), msgspec.json.encode(self._networks[network_id]))

    def write_container(self, container_id: str, endpoints: Iterable[Endpoint]) -> None:
        held = list(endpoints)
        content = ContainerNames(
            networks=[endpoint.network_id for endpoint in held if endpoint.dns_names],
            links={e.network_id: parse_links(e.links) for e in held if e.links},
            forward=any(endpoint.gateway or endpoint.gateway6 for endpoint in held),
        )
        replace(self.container_file(container_id), msgspec.json.encode(content))

    def remove_container(self, container_id: str) -> None:
        self.container_file(container_id).unlink(missing_ok=True)

    def containers(self) -> list[str]:
        """The ids of all containers that have a file."""
        return [path.stem for path in (self.directory / "containers").glob("*.json")]

    def _file(self, network_id: str) -> Path:
        return self.directory / f"{network_id}.json"


def _add(content: NetworkNames, endpoint: Endpoint) -> None:
    addresses = [address for address in (endpoint.ip, endpoint.ip6) if address]
    for name in {name.lower() for name in endpoint.dns_names}:
        content.names.setdefault(name, []).extend(addresses)
    for address in addresses:
        content.reverse[address] = endpoint.container_name


def _remove(content: NetworkNames, endpoint: Endpoint) -> None:
    addresses = {address for address in (endpoint.ip, endpoint.ip6) if address}
    for name in {name.lower() for name in endpoint.dns_names}:
        left = [address for address in content.names.get(name, ()) if address not in addresses]
        if left:
            content.names[name] = left
        else:
            content.names.pop(name, None)
    for address in addresses:
        content.reverse.pop(address, None)


def parse_links(links: Iterable[str]) -> dict[str, str]:
    """``container:alias`` (or a name alone) to alias → container."""
    found = {}
    for link in links:
        target, _, alias = link.partition(":")
        found[(alias or target).lower()] = target.lower()
    return found
