"""The small interface behind which NAT and filter rules are programmed.

A :class:`Firewall` is given what is to hold, never how: the bridges with their subnets and
properties, and the published ports as plain translations and openings.  ``rebuild`` makes the
kernel's rules equal to a whole :class:`Rules` in one step, whatever was there; the other methods
change one thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BridgeRules:
    """What holds for one bridge.

    ``subnets`` (CIDR, both families) are the bridge's own; those in ``masqueraded`` leave the host
    under its address, those in ``sources`` under the address that stands with them.  ``icc``: its
    containers reach each other.  ``internal``: nothing passes between it and anywhere else.
    ``open`` are the IP versions in which hosts that route to its subnets reach every port,
    ``routed`` those in which they may ping; from the host's interfaces in ``trusted`` every port
    is reached too.
    """

    name: str
    subnets: tuple[str, ...]
    masqueraded: tuple[str, ...] = ()
    icc: bool = True
    internal: bool = False
    sources: tuple[tuple[str, str], ...] = ()
    trusted: tuple[str, ...] = ()
    open: tuple[int, ...] = ()
    routed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Translation:
    """Packets of ``protocol`` to ``host_ip`` (empty: any address of the host, of the family of
    ``ip``) and ``host_port`` go to ``ip`` and ``port``."""

    protocol: str
    host_ip: str
    host_port: int
    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Opening:
    """Packets of ``protocol`` to the container's own address ``ip`` and ``port`` pass: from
    ``source``, or if that is empty from everywhere."""

    protocol: str
    ip: str
    port: int
    source: str = ""


Port = Translation | Opening


@dataclass(frozen=True, slots=True)
class Rules:
    """All that a daemon wants of the kernel's packet filter."""

    bridges: Sequence[BridgeRules] = field(default=())
    ports: Sequence[Port] = field(default=())


class Firewall(Protocol):
    """One daemon's rules in the kernel.  All methods raise :class:`OSError`."""

    def rebuild(self, rules: Rules) -> None: ...

    def add_bridge(self, bridge: BridgeRules) -> None: ...

    def remove_bridge(self, bridge: BridgeRules) -> None: ...

    def publish(self, ports: Sequence[Port]) -> None: ...

    def unpublish(self, ports: Sequence[Port]) -> None: ...

    def remove_all(self) -> None: ...

    def intact(self) -> bool:
        """Whether the rules are still there (another program may have flushed everything)."""
        ...

    def differences(self, rules: Rules) -> list[str]:
        """What the kernel has too much or too little of, in words; empty if all is right."""
        ...

    def close(self) -> None: ...
