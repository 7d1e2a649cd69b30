"""The names that containers find each other by, on files that outlive the daemon.

One file a network, ``ID.json`` in the directory, replaced atomically at every change; one file a
container, ``containers/ID.json``, that says which networks it is on.  The keepers' resolvers read
them again when they change, so that they need neither the daemon nor a message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

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
    by network."""

    networks: list[str]
    links: dict[str, dict[str, str]] = {}


class NamesDirectory:
    """Writes the files.  Raises :class:`OSError`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "containers").mkdir(parents=True, exist_ok=True)

    def container_file(self, container_id: str) -> Path:
        return self.directory / "containers" / f"{container_id}.json"

    def write_network(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        names: dict[str, list[str]] = {}
        reverse: dict[str, str] = {}
        for endpoint in endpoints:
            addresses = [address for address in (endpoint.ip, endpoint.ip6) if address]
            for name in endpoint.dns_names:
                names.setdefault(name.lower(), []).extend(addresses)
            for address in addresses:
                reverse[address] = endpoint.container_name
        content = NetworkNames(
            name=network.name,
            subnets=[pool.subnet for pool in network.pools],
            names=names,
            reverse=reverse,
        )
        _replace(self.directory / f"{network.id}.json", msgspec.json.encode(content))

    def write_container(self, container_id: str, endpoints: Iterable[Endpoint]) -> None:
        held = list(endpoints)
        content = ContainerNames(
            networks=[endpoint.network_id for endpoint in held],
            links={endpoint.network_id: parse_links(endpoint.links) for endpoint in held},
        )
        _replace(self.container_file(container_id), msgspec.json.encode(content))

    def remove_network(self, network_id: str) -> None:
        (self.directory / f"{network_id}.json").unlink(missing_ok=True)

    def remove_container(self, container_id: str) -> None:
        self.container_file(container_id).unlink(missing_ok=True)

    def containers(self) -> list[str]:
        """The ids of all containers that have a file."""
        return [path.stem for path in (self.directory / "containers").glob("*.json")]


def parse_links(links: Iterable[str]) -> dict[str, str]:
    """``container:alias`` (or a name alone) to alias → container."""
    found = {}
    for link in links:
        target, _, alias = link.partition(":")
        found[(alias or target).lower()] = target.lower()
    return found


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_suffix(".new")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
    aside.rename(path)
