"""Docker's legacy links (``--link``) between containers on the default network.

A link is kept as the user wrote it, ``container`` or ``container:alias``.  It gives the linking
container a name in its hosts file, variables in its environment, and, where the containers of the
network do not reach each other, a way to the exposed ports.  On other networks links are names for
the resolver and belong to the endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from sampan.engine.state import Container, ContainerRecord
from sampan.engine.types import HostConfig
from sampan.errors import Conflict, InvalidParameter, NotFound
from sampan.network.types import Link

Find = Callable[[str], Container]


def of(host: HostConfig) -> list[tuple[str, str]]:
    """(container, alias) of each link that is in force: those of a container on the default
    network.  Raises InvalidParameter for what is no link."""
    if host.network_mode not in ("bridge", "default", ""):
        return []
    return [_parse(text) for text in host.links or []]


def _parse(text: str) -> tuple[str, str]:
    # As inspect shows it: /container:/parent/alias.
    name, _, alias = text.partition(":")
    name, alias = name.strip("/"), alias.rpartition("/")[2]
    if not name or ":" in alias:
        raise InvalidParameter(f"bad format for links: {text}")
    return name, alias or name


def resolve(record: ContainerRecord, find: Find) -> list[Link]:
    """What the network needs to know of the links.  Raises Conflict if one leads to a container
    that does not run, NotFound if to none."""
    found = []
    for name, alias in of(record.host):
        other = find(name)
        if not other.running:
            raise Conflict(f"Cannot link to a non running container: /{other.name} AS {alias}")
        exposed = list(other.record.config.exposed_ports or {})
        found.append(Link(container_id=other.id, name=other.name, alias=alias, ports=exposed))
    return found


def shown(record: ContainerRecord) -> list[str] | None:
    """``HostConfig.Links`` of inspect."""
    return [f"/{name}:/{record.name}/{alias}" for name, alias in of(record.host)] or None


def without(host: HostConfig, alias: str) -> HostConfig:
    """The configuration without one link.  Raises NotFound."""
    kept = [text for text in host.links or [] if _parse(text)[1] != alias]
    if len(kept) == len(host.links or []):
        raise NotFound(f"Could not get container link {alias}: there is none")
    return msgspec.structs.replace(host, links=kept or None)


def linking(other: Container, containers: Iterable[Container]) -> list[Container]:
    """The running containers that link to another one."""
    return [
        container
        for container in containers
        if container.record.host.links
        and container.running
        and any(_is(other.name, other.id, target) for target, _ in of(container.record.host))
    ]


def follow(old: str, new: str, host: HostConfig) -> HostConfig:
    """The configuration after a container has got another name."""
    kept = [
        f"{new}:{alias}" if _parse(text)[0] == old else text
        for text in host.links or []
        for alias in (_parse(text)[1],)
    ]
    return msgspec.structs.replace(host, links=kept or None)


def _is(name: str, id: str, target: str) -> bool:
    return target == name or (len(target) >= 12 and id.startswith(target))


def environment(record: ContainerRecord, find: Find) -> list[str]:
    """The variables that tell of the linked containers."""
    found: list[str] = []
    for name, alias in of(record.host):
        other = find(name).record
        endpoint = other.networks.get("bridge")
        address = endpoint.ip_address if endpoint else ""
        found += _variables(f"/{record.name}/{alias}", alias, address, other)
    return found


def _variables(full: str, alias: str, address: str, other: ContainerRecord) -> list[str]:
    prefix = alias.upper().replace("-", "_")
    ports = sorted(
        (int(number), protocol)
        for number, _, protocol in (p.partition("/") for p in other.config.exposed_ports or {})
    )
    found = []
    if ports:
        number, protocol = ports[0]
        found.append(f"{prefix}_PORT={protocol}://{address}:{number}")
    for number, protocol in ports:
        name = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found += [
            f"{name}={protocol}://{address}:{number}",
            f"{name}_ADDR={address}",
            f"{name}_PORT={number}",
            f"{name}_PROTO={protocol}",
        ]
    found.append(f"{prefix}_NAME={full}")
    for item in other.config.env or []:
        name, equals, value = item.partition("=")
        if equals and name not in ("HOME", "PATH"):
            found.append(f"{prefix}_ENV_{name}={value}")
    return found
