"""Answers about containers from the names files (:mod:`sampan.network.names`).

The files are read when they change; a query costs a ``stat`` of each.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Generic, TypeVar

import msgspec

from sampan.network import dnswire
from sampan.network.dnswire import Query
from sampan.network.names import ContainerNames, NetworkNames

T = TypeVar("T")


class _File(Generic[T]):
    """A file of one type, read again when it was replaced; None while it is missing."""

    def __init__(self, path: str, kind: type[T]) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(kind)
        self._seen: tuple[int, int] | None = None
        self._content: T | None = None

    def read(self) -> T | None:
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_mtime_ns)
            if seen != self._seen:
                fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    data = os.read(fd, status.st_size + 65536)
                finally:
                    os.close(fd)
                self._content = self._decoder.decode(data)
                self._seen = seen
        except (OSError, msgspec.DecodeError):
            self._seen = self._content = None
        return self._content


class Lookup:
    """The names that one container sees."""

    def __init__(self, directory: str, container: str) -> None:
        self._directory = directory
        self._container = _File(container, ContainerNames)
        self._networks: dict[str, _File[NetworkNames]] = {}
        self._turn = 0

    def answer(self, query: Query, limit: int) -> bytes | None:
        """The response, or None for a name that is not ours."""
        if query.klass != dnswire.CLASS_IN:
            return None
        if query.name.endswith(".arpa"):
            return self._reverse(query, limit) if query.kind == dnswire.TYPE_PTR else None
        addresses = self._addresses(query.name)
        if addresses is None:
            return None
        records = []
        for packed in addresses:
            kind = dnswire.TYPE_A if len(packed) == 4 else dnswire.TYPE_AAAA
            if query.kind in (kind, dnswire.TYPE_ANY):
                records.append((kind, packed))
        if len(records) > 1:
            # Round robin: each query sees another address first.
            self._turn += 1
            start = self._turn % len(records)
            records = records[start:] + records[:start]
        return dnswire.answer(query, dnswire.NO_ERROR, records, limit)

    def may_forward(self) -> bool:
        """Whether the world may be asked for other names."""
        container = self._container.read()
        return container is None or container.forward

    def _addresses(self, name: str) -> list[bytes] | None:
        """The addresses of a name on the first network that knows it, or None."""
        container = self._container.read()
        for identity in container.networks if container is not None else ():
            network = self._network(identity)
            if network is None or container is None:
                continue
            plain = name.removesuffix("." + network.name.lower())
            wanted = container.links.get(identity, {}).get(plain, plain)
            found = network.names.get(wanted)
            if found is not None:
                return [ipaddress.ip_address(address).packed for address in found]
        return None

    def _reverse(self, query: Query, limit: int) -> bytes | None:
        packed = dnswire.reverse_address(query.name)
        container = self._container.read()
        if packed is None or container is None:
            return None
        address = ipaddress.ip_address(packed)
        for identity in container.networks:
            network = self._network(identity)
            if network is None:
                continue
            name = network.reverse.get(str(address))
            if name:
                data = dnswire.encode_name(f"{name}.{network.name}")
                records = [(dnswire.TYPE_PTR, data)]
                return dnswire.answer(query, dnswire.NO_ERROR, records, limit)
            if any(address in ipaddress.ip_network(subnet) for subnet in network.subnets):
                # Nobody else knows our addresses.
                return dnswire.answer(query, dnswire.NAME_ERROR, [], limit)
        return None

    def _network(self, identity: str) -> NetworkNames | None:
        known = self._networks.get(identity)
        if known is None:
            path = f"{self._directory}/{identity}.json"
            known = self._networks[identity] = _File(path, NetworkNames)
        return known.read()
