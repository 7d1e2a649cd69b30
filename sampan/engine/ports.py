"""Ports of a container: Docker's maps of strings to the network's values, and back.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from sampan.engine.types import ContainerConfig, HostConfig, PortBinding
from sampan.errors import InvalidParameter
from sampan.network.types import PortBinding as NetworkBinding

PROTOCOLS = ("tcp", "udp", "sctp")


def normal(port: str) -> str:
    """``80`` → ``80/tcp``.  Raises InvalidParameter for what is no port."""
    number, _, protocol = port.partition("/")
    protocol = (protocol or "tcp").lower()
    if not number.isdecimal() or not 0 < int(number) < 65536 or protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid port specification: {port!r}")
    return f"{int(number)}/{protocol}"


def _range(text: str) -> tuple[int, int]:
    """First and last port of ``8000`` or ``8000-8010``; (0, 0) for an empty text."""
    if not text:
        return 0, 0
    first, separator, last = text.partition("-")
    try:
        low, high = int(first), int(last) if separator else int(first)
    except ValueError:
        raise InvalidParameter(f"invalid port specification: {text!r}") from None
    if not 0 <= low <= high < 65536:
        raise InvalidParameter(f"invalid port specification: {text!r}")
    return low, high


def exposed_and_bound(config: ContainerConfig, host: HostConfig) -> ContainerConfig:
    """The configuration with every bound port among the exposed ones, all in normal form."""
    exposed: dict[str, dict[str, object]] = {}
    for port, value in (config.exposed_ports or {}).items():
        exposed[normal(port)] = value
    for port, bindings in host.port_bindings.items():
        exposed.setdefault(normal(port), {})
        for binding in bindings or []:
            _range(binding.host_port)
    return msgspec.structs.replace(config, exposed_ports=exposed or None)


def requested(config: ContainerConfig, host: HostConfig) -> list[NetworkBinding]:
    """What is to be published: the bindings, and with ``-P`` all exposed ports."""
    found: list[NetworkBinding] = []
    bound: set[str] = set()
    for port, bindings in host.port_bindings.items():
        number, _, protocol = normal(port).partition("/")
        for binding in bindings or [PortBinding()]:
            bound.add(normal(port))
            low, high = _range(binding.host_port)
            found.append(
                NetworkBinding(
                    container_port=int(number),
                    protocol=protocol,
                    host_ip=binding.host_ip,
                    host_port=low,
                    host_port_end=high if high != low else 0,
                )
            )
    if host.publish_all_ports:
        for port in config.exposed_ports or {}:
            if port not in bound:
                number, _, protocol = port.partition("/")
                found.append(NetworkBinding(container_port=int(number), protocol=protocol))
    return found


def published(
    exposed: Mapping[str, object] | None, bindings: Iterable[NetworkBinding]
) -> dict[str, list[PortBinding] | None]:
    """``NetworkSettings.Ports``: exposed ports without a binding have None."""
    found: dict[str, list[PortBinding] | None] = dict.fromkeys(exposed or {})
    for binding in bindings:
        port = f"{binding.container_port}/{binding.protocol}"
        mine = found.get(port) or []
        mine.append(PortBinding(binding.host_ip, str(binding.host_port or "")))
        found[port] = mine
    return found
