"""A container's network interface: its description, and the two halves of making it."""

from __future__ import annotations

from msgspec import Struct, field


class Interface(Struct):
    """A veth pair between a bridge of the host and the container."""

    host_name: str
    name: str = "eth0"
    mac: str = ""
    bridge: str = ""
    addresses: list[str] = field(default_factory=list)
    gateway: str = ""
    gateway6: str = ""
    mtu: int = 1500
    routes: list[tuple[str, str]] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)


def create_host_side(interface: Interface, netns_fd: int) -> None:
    """Make the pair, its peer inside the namespace, and join the host end to the bridge."""
    raise NotImplementedError


def configure_inside(interface: Interface) -> None:
    """Name, address and raise the peer; called inside the container's network namespace."""
    raise NotImplementedError
